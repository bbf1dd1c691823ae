"""Distillation: a widened model beside the dense one that it is made of."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging

from widenet import from_dense, widen
from widenet.convert.folder import load_model
from widenet.data.text.tokenizer import train_wordpiece
from widenet.errors import WideNetError
from widenet.models.text import WideNetTextModel
from widenet.recipes import load_recipe
from widenet.runs.evaluate import evaluate_run
from widenet.tasks.distillation import compare_hidden, kl_divergence
from widenet.training.run import train

BOOK = Path(__file__).parent.parent / "files/northanger.txt"
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = [
    *("data=book.txt", "data.max_length=32", "data.validation_fraction=0.1", "data.test_fraction=0.1"),
    *("training.eval_steps=0", "training.learning_rate=2e-3", "widen.num_experts=2"),
]
IMAGES = ["data=digits", "widen.num_experts=2"]


@pytest.fixture(scope="module", autouse=True)
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in a folder with a text and dense models: bert, masked, albert, questions, vit."""
    here = tmp_path_factory.mktemp("here")
    text = BOOK.read_text(encoding="utf-8")[:40_000]
    (here / "book.txt").write_text(text, encoding="utf-8")
    tokenizer = train_wordpiece([text], 400, lowercase=True)
    torch.manual_seed(0)
    plain = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    models = {
        "bert": BertModel(BertConfig(**plain)),
        "masked": BertForMaskedLM(BertConfig(**plain)),
        "questions": BertForQuestionAnswering(BertConfig(**plain)),
        "albert": AlbertForSequenceClassification(AlbertConfig(**plain, embedding_size=16, num_labels=3)),
        "classes": BertForSequenceClassification(BertConfig(**plain, num_labels=2)),
        "number": BertForSequenceClassification(BertConfig(**plain, num_labels=1)),
        "small": BertModel(BertConfig(**{**plain, "num_hidden_layers": 2})),
        "other": BertModel(BertConfig(**plain)),
        "vit": ViTForImageClassification(ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=10)),
    }
    models["vit"].config.id2label = {label: str(label) for label in range(10)}
    for name, model in models.items():
        for weights in model.parameters():
            weights.data.add_(0.1 * torch.randn_like(weights))  # so that every part of it bears on the outcome
        model.save_pretrained(here / name)
        if name != "vit":
            tokenizer.save_pretrained(here / name)
    widen(here / "bert", num_experts=2).save_pretrained(here / "wide")
    tokenizer.save_pretrained(here / "wide")
    train_wordpiece([text[:1000]], 400, lowercase=False).save_pretrained(here / "other")
    logging.disable_progress_bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    logging.enable_progress_bar()


def distill(recipe: str, output: Path, *overrides: str) -> dict[str, Any]:
    return train(load_recipe(recipe, [*(TEXT if recipe == "distill-text" else IMAGES), *overrides]), output)


def test_the_hidden_error_by_hand() -> None:
    # one block, tokens 0, 2 and 4 and one of padding: mean 2, so 4 + 0 + 4 = 8; missed 1 + 0 + 4 = 5
    teacher = [torch.tensor([[[0.0], [2.0]], [[4.0], [100.0]]])]
    student = [torch.tensor([[[1.0], [2.0]], [[2.0], [-100.0]]])]
    missed, variance = compare_hidden(student, teacher, torch.tensor([[1, 1], [1, 0]]))
    assert (missed.tolist(), variance.tolist()) == ([5], [8])
    missed, variance = compare_hidden(teacher * 2, teacher * 2, None)
    assert missed.tolist() == [0, 0]


def test_the_divergence_by_hand() -> None:
    even, uneven = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    # from (3/4, 1/4) to (1/2, 1/2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence(even, uneven).item() == pytest.approx(expected)
    assert kl_divergence(uneven, uneven).item() == pytest.approx(0)
    # at temperature 2 the odds are √3 to 1; the result is multiplied by 4
    p = math.sqrt(3) / (1 + math.sqrt(3))
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert kl_divergence(even, uneven, temperature=2).item() == pytest.approx(expected)
    # the mean over predictions, however they are arranged
    many = kl_divergence(even.expand(3, 5, 2), uneven.expand(3, 5, 2), temperature=2)
    assert many.item() == pytest.approx(expected)


def test_text(tmp_path: Path) -> None:
    before = distill(
        "distill-text", tmp_path / "short", "model=bert", "training.max_steps=1", "training.learning_rate=1e-9"
    )
    after = distill("distill-text", tmp_path / "long", "model=bert", "epochs=6")
    assert after["test"][""]["hidden_error"] < 0.5 * before["test"][""]["hidden_error"]
    assert after["test"][""]["hidden_error"] == pytest.approx(np.mean(after["test"][""]["hidden_errors"]))
    assert after["headline"] == ["hidden_error"]
    assert "agreement" not in after["test"][""]
    assert after["split"]["sizes"]["test"] == after["test"][""]["examples"]

    # as measured by hand on the same function
    wide, dense = load_model(tmp_path / "long", WideNetTextModel), from_dense("bert")
    assert wide.config.moe_blocks == [0, 1, 2, 3]
    assert wide.config.hidden_dropout_prob == 0
    assert evaluate_run(tmp_path / "long", [])["test"][""]["hidden_error"] == after["test"][""]["hidden_error"]
    ids = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        ours, theirs = (model.eval()(ids, output_hidden_states=True).hidden_states for model in (wide, dense))
    missed, variance = compare_hidden(ours, theirs, None)
    assert (missed[1:] / variance[1:]).mean() < before["test"][""]["hidden_error"]

    # and ready to be fine-tuned
    again = distill("distill-text", tmp_path / "again", "model=bert", "epochs=6")
    assert again["test"][""]["hidden_errors"] == after["test"][""]["hidden_errors"]
    (tmp_path / "rows.tsv").write_text("sentence\tlabel\n" + "good day\t1\nbad day\t0\n" * 20)
    fine = ["data.max_length=16", "epochs=1", f"model={tmp_path / 'long'}", f"data={tmp_path / 'rows.tsv'}"]
    assert train(load_recipe("text-classification", fine), tmp_path / "fine")["task"] == "text-classification"


def test_a_shared_source_is_its_own_copy(tmp_path: Path) -> None:
    """Widening ALBERT changes no function, so there is nothing to miss: also what the teacher is."""
    copies = ["widen.noise=0", "training.max_steps=1", "training.learning_rate=1e-12"]
    metrics = distill("distill-text", tmp_path / "run", "model=albert", *copies)
    assert metrics["test"][""]["hidden_error"] < 1e-9
    assert metrics["test"][""]["divergence"] < 1e-7
    assert metrics["test"][""]["agreement"] == 1
    assert metrics["headline"] == ["agreement", "hidden_error"]


@pytest.mark.parametrize("source", ["masked", "questions"])
def test_heads_of_tokens(source: str, tmp_path: Path) -> None:
    short = ["training.max_steps=1", "training.learning_rate=1e-9"]
    before = distill("distill-text", tmp_path / "short", f"model={source}", *short)
    after = distill("distill-text", tmp_path / "long", f"model={source}", "epochs=4")
    assert after["test"][""]["divergence"] < 0.8 * before["test"][""]["divergence"]
    assert after["test"][""]["agreement"] > before["test"][""]["agreement"]


def test_only_what_has_a_weight_is_learnt(tmp_path: Path) -> None:
    free = ["model=masked", "model.router_aux_loss_coef=0.0", "epochs=2"]
    found = {}
    for weight in ("hidden_weight", "logits_weight"):
        run = tmp_path / weight
        found[weight] = distill("distill-text", run, *free, f"distillation.{weight}=0")
    assert (
        found["hidden_weight"]["test"][""]["hidden_error"] > 1.5 * found["logits_weight"]["test"][""]["hidden_error"]
    )
    neither = distill("distill-text", tmp_path / "none", *free, *(f"distillation.{weight}=0" for weight in found))
    assert neither["test"][""]["loss"] == 0


def test_images(tmp_path: Path) -> None:
    before = distill(
        "distill-images", tmp_path / "short", "model=vit", "training.max_steps=1", "training.learning_rate=1e-9"
    )
    after = distill("distill-images", tmp_path / "long", "model=vit", "epochs=3")
    assert after["test"][""]["hidden_error"] < 0.8 * before["test"][""]["hidden_error"]
    assert after["test"][""]["agreement"] > before["test"][""]["agreement"]
    # the digits have the model's own classes, so that both can be scored
    dense = from_dense("vit")
    dense.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense/preprocessor_config.json").write_text((tmp_path / "long/preprocessor_config.json").read_text())
    tested = evaluate_run(tmp_path / "dense", ["data=digits"])
    assert after["test"][""]["teacher_accuracy"] == pytest.approx(tested["test"][""]["accuracy"])
    assert 0 <= after["test"][""]["accuracy"] <= 1


def test_images_without_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "photos/notes.txt").write_text("no image")
    metrics = distill("distill-images", tmp_path / "run", "model=vit", f"data={tmp_path / 'photos'}", "epochs=1")
    assert metrics["split"]["sizes"] == {"train": 29, "validation": 3, "test": 8}
    assert "accuracy" not in metrics["test"][""]
    with pytest.raises(WideNetError, match="has no class sub-folders"):
        train(load_recipe("image-folder", [f"data={tmp_path / 'photos'}"]), tmp_path / "other")


def test_a_model_that_is_wide_already(tmp_path: Path) -> None:
    started = ["model=wide", "epochs=1", "widen.num_experts=4"]
    with pytest.raises(
        WideNetError, match=r"wide is wide already; name the dense model it is from: distillation\.teacher="
    ):
        distill("distill-text", tmp_path / "run", *started)
    metrics = distill("distill-text", tmp_path / "run", *started, "distillation.teacher=bert")
    same = distill("distill-text", tmp_path / "same", "model=bert", "epochs=1")
    assert metrics["test"][""]["hidden_errors"] == same["test"][""]["hidden_errors"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("distill-text", [], r"recipe distill-text needs model=: the folder of a pretrained model"),
        ("distill-text", ["model=nowhere/at/all"], r"model folder 'nowhere/at/all' does not exist"),
        (
            "distill-text",
            ["model=vit"],
            r"vit is no model for recipe distill-text; .* image-distillation is",
        ),
        (
            "distill-images",
            ["model=bert"],
            r"bert is no model for recipe distill-images; .* text-distillation is",
        ),
        ("distill-text", ["model=bert", "model.hidden_size=8"], r"unknown argument of widen 'hidden_size'"),
        ("distill-text", ["model=bert", "widen.num_experts=0"], r"num_experts=0"),
        ("distill-text", ["model=bert", "widen.group_size=3"], r"group_size=3 must divide the source's 4 blocks"),
        ("distill-text", ["model=bert", "widen.experts=blokcs"], r"did you mean 'blocks'"),
        ("distill-text", ["model=bert", "data.max_length=64"], r"data\.max_length=64 is more than max_position_emb"),
        (
            "distill-text",
            ["model=bert", "distillation.teacher=small"],
            r"teacher small has num_hidden_layers=2, the stu",
        ),
        (
            "distill-text",
            ["model=bert", "distillation.teacher=other"],
            r"the teacher other reads other tokens than bert",
        ),
        ("distill-text", ["model=classes", "distillation.teacher=albert"], r"albert has id2label=.*, the student"),
        (
            "distill-text",
            ["model=wide", "distillation.teacher=bert", "widen.num_experts=8"],
            r"widen\.num_experts=8 comes",
        ),
        ("distill-text", ["model=bert", "distillation.temperature=0"], r"distillation\.temperature=0"),
        ("distill-images", ["model=vit", "training.label_smoothing=0.1"], r"label_smoothing=0\.1.* equal to 0$"),
    ],
)
def test_mistakes(recipe: str, overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match=message):
        distill(recipe, tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()


def test_the_command(tmp_path: Path, widenet: Callable[..., Any]) -> None:
    short = ["data.max_length=32", "training.max_steps=2", "training.eval_steps=1"]
    output = [
        "--experts",
        "2",
        "--init",
        "first",
        "--group-size",
        "2",
        "--seed",
        "3",
        "--output",
        str(tmp_path / "run"),
    ]
    assert widenet("widen", "bert", *short, *output, "--distill", "book.txt").code == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["recipe"], metrics["training"]["seed"], metrics["training"]["steps"]) == ("distill-text", 3, 2)
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["num_experts"], config["num_sharing_groups"]) == (2, 2)
    assert "hidden error" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize("task", ["text-classification", "masked-lm", "features"])
@pytest.mark.parametrize("source", ["bert", "masked"])
def test_a_head_without_a_counterpart_learns_nothing(task: str, source: str, tmp_path: Path) -> None:
    """Only what both have been for can be taught: a new head's teacher would be random numbers."""
    short = ["training.max_steps=1", f"widen.task={task}", f"model={source}"]
    metrics = distill("distill-text", tmp_path / "run", *short)
    assert ("agreement" in metrics["test"][""]) == (task == "masked-lm" and source == "masked")
    assert evaluate_run(tmp_path / "run", [])["test"][""]["hidden_error"] == metrics["test"][""]["hidden_error"]


def test_one_number_is_a_regression(tmp_path: Path) -> None:
    before = distill("distill-text", tmp_path / "short", "model=number", "training.max_steps=1")
    after = distill("distill-text", tmp_path / "long", "model=number", "epochs=4")
    assert "agreement" not in after["test"][""]
    assert after["test"][""]["divergence"] < 0.5 * before["test"][""]["divergence"]


def test_half_precision_is_not_trained_in(tmp_path: Path) -> None:
    BertModel.from_pretrained("bert", dtype=torch.float16).save_pretrained(tmp_path / "half")
    for file in Path("bert").glob("*token*"):
        (tmp_path / "half" / file.name).write_text(file.read_text())
    metrics = distill("distill-text", tmp_path / "run", f"model={tmp_path / 'half'}", "epochs=1")
    assert math.isfinite(metrics["test"][""]["hidden_error"])
    assert load_model(tmp_path / "run", WideNetTextModel).dtype == torch.float32


def test_bfloat16(tmp_path: Path) -> None:
    metrics = distill("distill-text", tmp_path / "run", "model=masked", "training.precision=bf16", "epochs=2")
    exact = distill("distill-text", tmp_path / "exact", "model=masked", "epochs=2")
    assert metrics["test"][""]["hidden_error"] == pytest.approx(exact["test"][""]["hidden_error"], rel=0.2)


def test_the_teacher_is_not_overwritten(tmp_path: Path) -> None:
    distill("distill-text", tmp_path / "run", "model=bert", "training.max_steps=1")
    from_dense("bert").save_pretrained(tmp_path / "run/teacher")
    asked = ["model=wide", f"distillation.teacher={tmp_path / 'run/teacher'}", "widen.num_experts=4"]
    with pytest.raises(WideNetError, match=r"--overwrite would delete .*run, which holds distillation\.teacher"):
        train(load_recipe("distill-text", [*TEXT, *asked]), tmp_path / "run", overwrite=True)


def test_evaluating_needs_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distill(
        "distill-text", tmp_path / "run", "model=bert", "training.max_steps=1", f"data={Path('book.txt').resolve()}"
    )
    teacher = Path("bert").resolve()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    evaluate_run(tmp_path / "run", [])  # the recipe of the run names it from the root
    with pytest.raises(
        WideNetError, match=r"the teacher is needed, too; distillation\.teacher= says where: bert is no f"
    ):
        evaluate_run(tmp_path / "run", ["distillation.teacher=bert"])
    evaluate_run(tmp_path / "run", [f"distillation.teacher={teacher}"])


def test_what_distilling_alone_is_for(tmp_path: Path, widenet: Callable[..., Any]) -> None:
    for words, message in (
        (["epochs=2"], "epochs=2 is for the recipe of --distill, which is not given"),
        (["--distill", "book.txt", "--json"], "--json is for the table of sizes"),
        (["--distill", "book.txt", "--group-size", "0"], "widen.group_size=0"),
    ):
        result = widenet("widen", "bert", *words, "--output", str(tmp_path / "run"))
        assert (result.code, result.out) == (2, "")
        assert message in result.err
    assert not (tmp_path / "run").exists()
