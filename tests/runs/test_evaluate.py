"""Testing a run again: the same numbers, and never on images it may have been trained on."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from widenet.data.images.batches import make_processor
from widenet.data.images.load import ArrayImages, ImageData, ImageSet, load_images
from widenet.data.images.section import ImagesSection
from widenet.errors import WideNetError
from widenet.models.presets import create_config
from widenet.models.vision import WideNetForImageClassification
from widenet.recipes import load_recipe
from widenet.runs.evaluate import evaluate_run
from widenet.runs.run import Run
from widenet.tasks.images import ImageClassification
from widenet.training.run import train

TINY = [
    "model.image_size=8",
    "model.patch_size=2",
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=2",
    "model.intermediate_size=32",
    "training.batch_size=128",
    "training.warmup_epochs=0",
    "epochs=2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    train(load_recipe("digits", TINY), folder)
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))


def recorded(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def refusal(*arguments: Any) -> str:
    with pytest.raises(WideNetError) as caught:
        evaluate_run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_images(folder: Path, images: ImageSet, names: list[str]) -> None:
    for index in range(len(images)):
        place = folder / names[images.labels[index]]
        place.mkdir(parents=True, exist_ok=True)
        images.image(index).save(place / f"{index:04}.png")


# ---- a run on its own data ----


def test_evaluating_again_gives_the_recorded_metrics(copy: Path) -> None:
    before = recorded(copy)
    found = evaluate_run(copy, [])
    again, first = found["test"][""], before["test"][""]
    assert again["accuracy"] == first["accuracy"]
    assert again["class_accuracy"] == first["class_accuracy"]
    assert again["expert_load"] == first["expert_load"]
    assert again["loss"] == pytest.approx(first["loss"], rel=1e-6)
    # what training recorded stays
    after = recorded(copy)
    assert after == json.loads(json.dumps(found))
    assert set(after) == set(before)
    assert {key: after[key] for key in after if key != "test"} == {key: before[key] for key in before if key != "test"}
    assert set(after["test"][""]) == set(first)


def test_lost_metrics_are_recomputed(copy: Path) -> None:
    before = recorded(copy)
    (copy / "metrics.json").unlink()
    assert evaluate_run(copy, [])["test"][""]["accuracy"] == before["test"][""]["accuracy"]
    assert recorded(copy)["split"] == before["split"]


def test_the_batch_size_does_not_matter_and_overrides_record_nothing(run: Path) -> None:
    before = (run / "metrics.json").read_bytes()
    found = evaluate_run(run, ["training.eval_batch_size=7"])
    assert found["test"][""]["accuracy"] == recorded(run)["test"][""]["accuracy"]
    assert found["test"][""]["loss"] == pytest.approx(recorded(run)["test"][""]["loss"], rel=1e-5)
    assert not {"training", "validation", "commit"} & set(found)
    assert (run / "metrics.json").read_bytes() == before


def test_output_takes_the_metrics(run: Path, tmp_path: Path) -> None:
    before = (run / "metrics.json").read_bytes()
    found = evaluate_run(run, ["training.eval_batch_size=100"], tmp_path / "a" / "b")
    assert recorded(tmp_path / "a" / "b") == json.loads(json.dumps(found))
    evaluate_run(run, [], tmp_path / "c")
    assert recorded(tmp_path / "c")["training"]["seed"] == 0
    assert (run / "metrics.json").read_bytes() == before
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"metrics.json"}


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_output_that_cannot_be_written(run: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in refusal(run, [], tmp_path / output)


@pytest.mark.parametrize("change", ["data.split_seed=1", "data.test_fraction=0.3", "data.validation_fraction=0.3"])
def test_a_changed_split_is_refused(run: Path, change: str) -> None:
    assert "no longer split" in refusal(run, [change])


# ---- the flat form of old ----


def flat_form(folder: Path) -> dict[str, Any]:
    """Write a run's metrics as widenet 0.1 began with, and return what was written."""
    now = recorded(folder)
    old = {
        **{key: now[key] for key in ("recipe", "task", "headline", "split", "versions", "commit")},
        **{f"validation_{key}": value for key, value in now["validation"].items()},
        **{key: now["test"][""][key] for key in ("accuracy", "loss", "class_accuracy", "expert_load", "balance_loss")},
        **{key: now["training"][key] for key in ("steps", "epochs", "best_epoch", "outside_step_fraction")},
        **{key: value for key, value in now["model"].items() if key != "name"},
        "model": now["model"]["name"],
        "test_images": 359,
        "images_per_second": 1.0,
        "seconds": 1234.5,
        "seed": 7,
    }
    (folder / "metrics.json").write_text(json.dumps(old))
    return old


def test_the_flat_form_is_refused_with_a_way_out(copy: Path) -> None:
    flat_form(copy)
    with pytest.raises(WideNetError) as caught:
        _ = Run(copy).metrics
    assert "\n" not in str(caught.value)
    assert "has no key 'test'" in str(caught.value)
    assert f"`widenet evaluate {copy}` tests the run again" in str(caught.value)


def test_evaluating_converts_the_flat_form(copy: Path) -> None:
    before = recorded(copy)
    flat_form(copy)
    found = evaluate_run(copy, [])
    after = Run(copy).metrics
    assert after == json.loads(json.dumps(found))
    kept = {"steps", "epochs", "best_epoch", "outside_step_fraction"}
    assert after["training"] == {"seconds": 1234.5, "seed": 7, **{key: before["training"][key] for key in kept}}
    # nothing of the flat form is left over
    assert set(after) == set(before)
    assert {key: after[key] for key in after if key not in ("test", "training")} == {
        key: before[key] for key in before if key not in ("test", "training")
    }
    assert after["test"][""]["accuracy"] == before["test"][""]["accuracy"]


# ---- other data ----


def test_the_same_images_as_files(run: Path, tmp_path: Path) -> None:
    data = load_images(ImagesSection(source="digits"))
    for name in ("train", "validation", "test"):
        write_images(tmp_path / name, getattr(data, name), data.class_names)
    found = evaluate_run(run, [f"data={tmp_path}"])
    assert found["test"][""]["accuracy"] == recorded(run)["test"][""]["accuracy"]
    assert found["test"][""]["loss"] == pytest.approx(recorded(run)["test"][""]["loss"], rel=1e-5)
    assert found["split"]["source"] == str(tmp_path)


@pytest.mark.parametrize("names", [["cat", "dog"], list("0123456789x"), list("012345678")])
def test_data_with_other_labels(run: Path, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("L", (8, 8), index).save(tmp_path / name / f"{index}.png")
    message = refusal(run, [f"data={tmp_path}"])
    assert "do not match the model" in message
    assert f"{len(names)} classes" in message
    assert "10 classes" in message


def test_a_model_folder_without_recipe(copy: Path) -> None:
    expected = recorded(copy)["test"][""]["accuracy"]
    (copy / "recipe.yaml").unlink()
    (copy / "metrics.json").unlink()
    assert "data=" in refusal(copy, [])
    assert "data=" in refusal(copy, ["seed=1"])
    found = evaluate_run(copy, ["data=digits"])
    assert (found["test"][""]["accuracy"], found["test"][""]["examples"]) == (expected, 359)
    assert not (copy / "metrics.json").exists()


def test_an_unknown_key_is_named(run: Path) -> None:
    assert "did you mean" in refusal(run, ["data.split_sed=1"])


# ---- damage ----


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", b"{"),
        ("metrics.json", b"[]"),
        ("recipe.yaml", b"a: ["),
        ("recipe.yaml", b"\xff\xfe"),
        ("preprocessor_config.json", b"{"),
        ("config.json", b"{"),
    ],
)
def test_damaged_files_are_named(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    assert name in refusal(copy, [])
    assert (copy / name).read_bytes() == content


# ---- the numbers, by hand ----


def constant_classifier(batch_size: int = 10, **fields: Any) -> ImageClassification:
    """A model that answers logits 2, 1, 0, 0, 0, 0 whatever it sees, and ten images to see."""
    config = create_config("widenet-digits", num_labels=6, num_experts=4, **fields)
    torch.manual_seed(0)
    model = WideNetForImageClassification(config).eval()
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([2.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8)
    images = ArrayImages(pixels, np.array([0, 0, 0, 0, 1, 1, 1, 2, 5, 5]))
    data = ImageData(images, images, images, list("abcdef"), (0.5,) * 3, (0.5,) * 3, {"sizes": {"test": 10}})
    recipe = load_recipe("digits", [f"training.eval_batch_size={batch_size}"])
    return ImageClassification(recipe, data, model, make_processor(config, data))


@pytest.mark.parametrize("batch_size", [3, 10, 64])
def test_metrics_by_hand(batch_size: int) -> None:
    found = constant_classifier(batch_size).test()[""]
    assert found["accuracy"] == 0.4  # four of the ten are of class a
    # no images of d and e; every image of class a is right, and none of the others
    assert found["class_accuracy"] == {"a": 1.0, "b": 0.0, "c": 0.0, "f": 0.0}
    # cross-entropy: log Σ exp minus the logit; the logits of the labels add up to 4·2 + 3·1
    total = math.log(math.exp(2) + math.exp(1) + 4)
    assert found["loss"] == pytest.approx(total - 11 / 10)
    assert found["examples"] == 10
    # per block, each of 10 images · 16 patches · 2 choices went to one of 4 experts
    assert len(found["expert_load"]) == 4
    for shares in found["expert_load"]:
        assert sum(shares) == pytest.approx(1)
        assert max(shares) <= 0.5  # the two choices of a token differ
        assert all(share * 320 == pytest.approx(round(share * 320)) for share in shares)
    assert 0.9 < found["balance_loss"] < 1.5  # a mean over operations, not the sum of four


def test_top5_counts_the_five_best() -> None:
    task = constant_classifier(4)
    task.model.classifier.bias.data = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    # all but the two images of class f, which is the sixth
    assert task.test()[""]["top5_accuracy"] == 0.8


def test_balance_loss_is_that_of_the_model() -> None:
    task = constant_classifier()
    pixels = task.processor([task.data.test.image(index) for index in range(10)], return_tensors="pt")
    with torch.no_grad():
        expected = task.model(pixels["pixel_values"], output_routing=True).balance_loss.item() / 4
    assert task.test()[""]["balance_loss"] == pytest.approx(expected)


def test_dense_blocks_have_no_load() -> None:
    found = constant_classifier(moe_layers=[2]).test()[""]
    assert [shares is None for shares in found["expert_load"]] == [True, True, False, True]
    found = constant_classifier(moe_layers="none").test()[""]
    assert found["expert_load"] == [None] * 4
    assert found["balance_loss"] is None


def test_few_classes_have_no_top5() -> None:
    task = constant_classifier()
    task.model = WideNetForImageClassification(create_config("widenet-digits", num_labels=3))
    task.data.class_names[:] = "abc"
    task.data.test.labels[:] = 1
    assert "top5_accuracy" not in task.test()[""]


def test_validation_by_hand() -> None:
    task = constant_classifier(batch_size=3)
    found = task.validate()
    surprise = math.log(math.exp(2) + math.exp(1) + 4) - 11 / 10  # as in the test above
    assert found["accuracy"] == 0.4
    assert found["cross_entropy"] == pytest.approx(surprise)
    assert found["selection"] == pytest.approx(0.4 - 1e-4 * surprise)
    # four routing operations, each about balanced, and λ = 0.01
    assert found["loss"] - surprise == pytest.approx(0.01 * 4, rel=0.5)
