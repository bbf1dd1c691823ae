"""From image files to classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from widenet.convert.folder import load_model, load_processor
from widenet.errors import WideNetError
from widenet.models.vision import WideNetForImageClassification
from widenet.recipes import load_recipe
from widenet.runs.run import Run
from widenet.tasks import Prediction
from widenet.training.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 3-class colour images: enough to tell classes and channels apart."""
    root = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (root / "data" / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(root / "data" / name / f"{index}.png")
    overrides = [
        *(
            "model.image_size=8",
            "model.patch_size=2",
            "model.hidden_size=32",
            "model.num_hidden_layers=2",
            "model.num_attention_heads=2",
        ),
        *("model.intermediate_size=32", "model.image_size=16", "model.patch_size=4", "training.warmup_epochs=0"),
        *("training.batch_size=8", "training.learning_rate=1e-2", "training.mixup=0", "epochs=12"),
    ]
    train(load_recipe("digits", [f"data={root / 'data'}", *overrides]), root / "run")
    return root / "run"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Colour, grey, transparent and palette images of several sizes and formats."""
    rng = np.random.default_rng(1)
    colour = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    paths = {
        "rgb.png": colour,
        "wide.jpg": colour.resize((60, 30)),
        "grey.png": colour.convert("L"),
        "transparent.png": colour.convert("RGBA"),
        "palette.gif": colour.convert("P"),
        "tall.bmp": colour.resize((9, 40)),
    }
    for name, image in paths.items():
        image.save(tmp_path / name)
    return [tmp_path / name for name in paths]


def test_what_was_learnt_is_predicted(run: Path) -> None:
    data = run.parent / "data"
    paths = [data / name / f"{index}.png" for index in range(3) for name in ("red", "green", "blue")]
    found = Run(run).predict(paths)
    assert all(isinstance(prediction, Prediction) for prediction in found)
    assert {(prediction.value, prediction.cut) for prediction in found} == {(None, False)}
    assert [prediction.input for prediction in found] == [str(path) for path in paths]
    assert [prediction.answers[0][0] for prediction in found] == ["red", "green", "blue"] * 3


def test_probabilities_are_the_model_s(run: Path, images: list[Path]) -> None:
    model, processor = load_model(run, WideNetForImageClassification).eval(), load_processor(run)
    names = list(model.config.id2label.values())
    for prediction, path in zip(Run(run).predict(images), images, strict=True):
        with torch.no_grad():
            pixels = processor(Image.open(path).convert("RGB"), return_tensors="pt")
            expected = model(**pixels).logits.softmax(-1)[0]
        assert [name for name, _ in prediction.answers] == [names[i] for i in expected.argsort(descending=True)]
        for name, probability in prediction.answers:
            assert probability == pytest.approx(expected[names.index(name)].item(), abs=1e-5)


def test_probabilities_are_sorted_and_add_up(run: Path, images: list[Path]) -> None:
    for prediction in Run(run).predict(images, top=2):
        values = [probability for _, probability in prediction.answers]
        assert values == sorted(values, reverse=True)
        assert len(values) == 2
        assert sum(values) < 1
    for prediction in Run(run).predict(images):
        assert sum(probability for _, probability in prediction.answers) == pytest.approx(1)


def test_more_classes_than_there_are(run: Path, images: list[Path]) -> None:
    (prediction,) = Run(run).predict(images[:1], top=1000)
    assert {name for name, _ in prediction.answers} == {"red", "green", "blue"}


def test_order_and_batches(run: Path, images: list[Path]) -> None:
    whole = Run(run).predict(images)
    assert [prediction.input for prediction in whole] == [str(path) for path in images]
    backwards = Run(run).predict(images[::-1], batch_size=2)
    for one, other in zip(whole, backwards[::-1], strict=True):
        assert one.input == other.input
        for (name, value), (other_name, other_value) in zip(one.answers, other.answers, strict=True):
            assert name == other_name
            assert value == pytest.approx(other_value, abs=1e-5)
    assert len({prediction.answers[0][1] for prediction in whole}) > 1  # or the order could not show


def test_the_same_pixels_in_another_mode(run: Path, images: list[Path]) -> None:
    by_name = {Path(prediction.input).name: prediction.answers for prediction in Run(run).predict(images)}
    assert by_name["transparent.png"] == by_name["rgb.png"]
    assert by_name["grey.png"] != by_name["rgb.png"]


def test_no_images(run: Path) -> None:
    assert Run(run).predict([]) == []


def test_names_may_be_text(run: Path, images: list[Path]) -> None:
    assert Run(str(run)).predict([str(images[0])]) == Run(run).predict(images[:1])


def test_the_pipeline_of_transformers_agrees(run: Path, images: list[Path]) -> None:
    classify = pipeline("image-classification", model=str(run), device="cpu")
    for prediction, path in zip(Run(run).predict(images), images, strict=True):
        expected = {row["label"]: row["score"] for row in classify(Image.open(path).convert("RGB"), top_k=3)}
        assert {name for name, _ in prediction.answers} == set(expected)
        for name, probability in prediction.answers:
            assert probability == pytest.approx(expected[name], abs=1e-5)


def test_the_pipeline_reads_files_alike(run: Path, images: list[Path]) -> None:
    (row,) = pipeline("image-classification", model=str(run), device="cpu")(str(images[1]), top_k=1)
    name, probability = Run(run).predict(images[1:2])[0].answers[0]
    assert (row["label"], row["score"]) == (name, pytest.approx(probability, abs=1e-5))


def refusal(run: Path, paths: list[Path], **options: int) -> str:
    with pytest.raises(WideNetError) as caught:
        Run(run).predict(paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_images_are_named(run: Path, images: list[Path], tmp_path: Path) -> None:
    missing, text, cut = tmp_path / "none.png", tmp_path / "text.png", tmp_path / "cut.png"
    text.write_text("not an image")
    cut.write_bytes(images[0].read_bytes()[:200])
    assert f"{missing} does not exist" in refusal(run, [images[0], missing])
    assert f"{text} is not an image" in refusal(run, [text])
    assert str(cut) in refusal(run, [cut])
    assert str(tmp_path) in refusal(run, [tmp_path])


@pytest.mark.parametrize("top", [0, -1])
def test_top_below_one(run: Path, images: list[Path], top: int) -> None:
    assert f"top={top}" in refusal(run, images, top=top)


def test_folders_that_are_no_runs(run: Path, images: list[Path], tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none", images)
    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    (copy / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refusal(copy, images)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    assert "'bert'" in refusal(copy, images)


def test_options_that_are_another_task_s(run: Path, images: list[Path]) -> None:
    for options, expected in (
        ({"context": "a text"}, f"context is for question-answering, but {run} was trained for image-classification"),
        ({"colour": 1}, f"predict has no option colour, but {run} was trained for image-classification"),
    ):
        with pytest.raises(WideNetError) as caught:
            Run(run).predict(images, **options)
        assert str(caught.value) == expected
