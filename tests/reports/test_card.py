"""The card of a run: metadata and numbers are those of metrics.json, and what it tells to do works."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from nested import nest
from PIL import Image

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.errors import WideNetError
from widenet.recipes import load_recipe
from widenet.reports.card import write_card
from widenet.training.run import train

TINY = [
    *("model.image_size=8", "model.patch_size=2", "model.hidden_size=32", "model.num_hidden_layers=2"),
    *("model.num_attention_heads=2", "model.intermediate_size=32", "training.batch_size=256", "epochs=1"),
]


DISTILLED: dict[str, Any] = {"task": "image-distillation", "headline": ["hidden_error"], "hidden_error": 0.125}
PRETRAINED: dict[str, Any] = {"task": "pretraining", "headline": ["mlm_loss"], "mlm_loss": 5.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "run"
    train(load_recipe("digits", TINY), folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, as the current folder, with a photo in it."""
    folder = shutil.copytree(trained, tmp_path / "run")
    Image.fromarray(np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)).save(folder / "photo.png")
    monkeypatch.chdir(folder)
    return folder


def read(run: Path) -> tuple[ModelCard, dict[str, Any]]:
    return ModelCard.load(run / "README.md"), json.loads((run / "metrics.json").read_text())


def code(card: ModelCard, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", card.text, re.DOTALL | re.MULTILINE)
    return found


def make_run(folder: Path, config: WideNetConfig, architecture: str, recipe: str = "", **metrics: Any) -> Path:
    folder.mkdir()
    config.architectures = [architecture]
    config.save_pretrained(folder)
    if recipe:
        (folder / "recipe.yaml").write_text(recipe)
    common: dict[str, Any] = {
        "recipe": "tiny",
        "model": "widenet-text-tiny",
        "parameters": 12345,
        "active_parameters": 6789,
        "seed": 3,
    }
    common |= {"flops": 4000, "active_flops": 2000, "epochs": 2.0, "steps": 20, "best_epoch": 2.0, "seconds": 75.2}
    common |= {"split": {"source": "folder", "sizes": {"train": 1000, "test": 16}, "digest": "abcdef"}}
    (folder / "metrics.json").write_text(json.dumps(nest({**common, **metrics})))
    return folder


def tiny_text(**fields: Any) -> WideNetTextConfig:
    return WideNetTextConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, **fields)


# ---- a real run ----


def test_the_metadata_are_complete(trained: Path) -> None:
    card, _ = read(trained)
    block = yaml.safe_load((trained / "README.md").read_text().split("---\n")[1])
    assert set(block) == {"library_name", "pipeline_tag", "tags", "metrics", "model-index"}  # and no license
    found = card.data.to_dict()
    assert (found["library_name"], found["pipeline_tag"]) == ("transformers", "image-classification")
    assert card.data.tags == ["widenet", "mixture-of-experts"]
    assert card.data.metrics == ["accuracy"]
    for result in block["model-index"][0]["results"]:
        assert set(result) == {"task", "dataset", "metrics"}
        assert result["task"] == {"type": "image-classification"}
        assert result["dataset"]["name"] == result["dataset"]["type"] == "digits"


def test_every_number_is_that_of_the_metrics(trained: Path) -> None:
    card, metrics = read(trained)
    results = {(each.dataset_split, each.metric_type, each.metric_value) for each in card.data.eval_results}
    assert results == {
        *(("test", key, metrics["test"][""][key]) for key in ("accuracy", "top5_accuracy", "loss", "balance_loss")),
        *(("validation", key, metrics["validation"][key]) for key in ("accuracy", "loss", "cross_entropy")),
    }
    test, model, validation = metrics["test"][""], metrics["model"], metrics["validation"]
    worst = min(test["class_accuracy"].values())
    for words in (
        f"| Accuracy | {test['accuracy']:.2%} | {validation['accuracy']:.2%} |",
        f"| Loss | {test['loss']:.3f} | {validation['loss']:.3f} |",
        f"Tested on {test['examples']} images",
        f"| parameters | {model['parameters']:,} | {model['active_parameters']:,} |",
        f"| FLOPs of one image | {model['flops']:,} | {model['active_flops']:,} |",
        *(f"| {part} | {size:,} |" for part, size in metrics["split"]["sizes"].items()),
        f"Digest `{metrics['split']['digest']}`",
        "2 blocks of width 32; a mixture of 4 experts, 2 for each token, in every block",
        f"{worst:.1%} of its test images",
        (trained / "recipe.yaml").read_text().rstrip(),
    ):
        assert words in card.text


def test_the_lines_of_python_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = code(read(run)[0], "python")
    assert lines.startswith("import widenet")
    exec(lines, {})
    answers = yaml.safe_load(capsys.readouterr().out.splitlines()[-1])
    assert len(answers) == 3 and all(answer["label"] in "0123456789" for answer in answers)


def test_the_commands_run(run: Path, widenet: Callable[..., Any]) -> None:
    card, metrics = read(run)
    program, *words = shlex.split(code(card, "bash"))
    assert program == "widenet"
    result = widenet(*words)
    assert (result.code, result.err) == (0, "")
    again, repeated = read(run / "again")
    assert repeated["test"][""]["accuracy"] == metrics["test"][""]["accuracy"]
    assert (run / "again/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert again.data.eval_results == card.data.eval_results
    (command,) = re.findall(r"`widenet (predict \. [^`]+)`", card.text)
    result = widenet(*shlex.split(command))
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("photo.png: ")


# ---- other runs ----


def test_two_test_parts_and_a_data_set_of_the_hub(tmp_path: Path) -> None:
    split = {"source": "hf:somebody/pairs:small", "sizes": {"train": 9}, "origin": {"train": "own"}, "digest": "d"}
    scores = {"matched_accuracy": 0.5, "matched_macro_f1": 0.25}
    scores |= {"mismatched_accuracy": 0.75, "validation_accuracy": 1.0, "mismatched_loss": float("nan")}
    run = make_run(
        tmp_path / "run",
        tiny_text(num_labels=3),
        "WideNetForSequenceClassification",
        "name: tiny\ntask: text-classification\ndata: {source: x, max_length: 64}\n"
        "model: {name: widenet-text-tiny}\ntraining: {epochs: 2}\n",
        task="text-classification",
        split=split,
        **scores,
    )
    card = ModelCard.load(write_card(run))
    assert (card.data.datasets, card.data.pipeline_tag) == (["somebody/pairs"], "text-classification")
    found = {(each.dataset_split, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert found == {
        ("matched", "accuracy"): 0.5,
        ("matched", "f1"): 0.25,
        ("mismatched", "accuracy"): 0.75,
        ("validation", "accuracy"): 1.0,
    }
    assert {(each.dataset_type, each.dataset_config) for each in card.data.eval_results} == {
        ("somebody/pairs", "small")
    }
    assert "| Accuracy | 50.00% | 75.00% | 100.00% |" in card.text
    assert "FLOPs of one text of 64 tokens" in card.text and "It reads 64 tokens at once." in card.text


def test_a_model_without_lines_of_its_own(tmp_path: Path) -> None:
    vision = WideNetVisionConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, moe_layers="none")
    run = make_run(
        tmp_path / "run",
        vision,
        "WideNetVisionModel",
        task="image-distillation",
        headline=["hidden_error"],
        hidden_error=0.125,
    )
    card = ModelCard.load(write_card(run))
    assert "mixture-of-experts" not in card.data.tags
    assert 'widenet.WideNetVisionModel.from_pretrained(".")' in code(card, "python")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("hidden_error", 0.125)
    assert "```bash" not in card.text  # there is no recipe.yaml


def test_the_license_of_the_model_that_was_fine_tuned(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start/README.md").write_text("---\nlicense: mit\n---\n")
    run = make_run(
        tmp_path / "run",
        tiny_text(),
        "WideNetForPreTraining",
        task="pretraining",
        headline=["mlm_loss"],
        model=str(tmp_path / "start"),
        mlm_loss=5.0,
    )
    data = ModelCard.load(write_card(run)).data
    assert (data.license, data.base_model) == ("mit", None)


def test_the_public_model_that_was_started_from_is_named(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        tiny_text(),
        "WideNetForPreTraining",
        task="pretraining",
        headline=["mlm_loss"],
        model="somebody/dense",
        mlm_loss=5.0,
    )
    assert ModelCard.load(write_card(run)).data.base_model == "somebody/dense"


def test_no_card_of_what_is_no_run(trained: Path, tmp_path: Path) -> None:
    for name in ("metrics.json", "config.json"):
        folder = shutil.copytree(trained, tmp_path / name, ignore=shutil.ignore_patterns(name, "checkpoints"))
        (folder / "README.md").write_text("mine")
        with pytest.raises(WideNetError, match=f"no {name}"):
            write_card(folder)
        assert (folder / "README.md").read_text() == "mine"
