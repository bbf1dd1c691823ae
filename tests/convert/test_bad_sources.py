"""What `widenet widen` cannot read: one line, exit code 2, and no folder. test_sources.py has the library's half."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForQuestionAnswering, BertModel

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"vocab_size": 50, "max_position_embeddings": 16}
KEY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small BERT in the folder `bert` of the current one."""
    monkeypatch.chdir(tmp_path)
    BertModel(BertConfig(**SIZES)).save_pretrained("bert")
    return Path("bert")


def described_as(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return change


def with_weights(**changed: torch.Tensor | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        kept = {**load_file(folder / "model.safetensors"), KEY: changed["query"]}
        tensors = {key: value for key, value in kept.items() if value is not None}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def another(model_class: Any, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: model_class(BertConfig(**SIZES, **fields)).save_pretrained(folder)


def as_a_pickle(content: Any = None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        torch.save(content or load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    return change


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


class Program:
    """What a pickle may do when it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def program(folder: Path) -> None:
    as_a_pickle({"payload": Program()})(folder)


def plain_program(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Program()))


@pytest.mark.parametrize(
    ("damage", "options", "named"),
    [
        (described_as(model_type="gpt2"), [], ["'gpt2' in bert", "BERT, ALBERT, ViT and DeiT of transformers"]),
        (described_as(model_type=None, architecture="resnet18"), [], ["'resnet18'", "ViT (vit_*) of timm"]),
        (described_as(architectures=["BertForTokenClassification"]), [], ["BertForTokenClassification", "BertModel"]),
        (with_weights(query=None), [], ["bert is incomplete", KEY]),
        (with_weights(query=torch.zeros(3, 3)), [], ["bert is damaged", KEY, "[3, 3]", "[32, 32]"]),
        (with_weights(query=torch.full((32, 32), torch.nan)), [], ["no finite numbers", "attentions.0.q_proj.weight"]),
        (described_as(num_hidden_layers=1), [], ["bert is damaged", "no block for", "encoder.layer.1."]),
        (described_as(hidden_act="nope"), [], ["bert/config.json has an unknown value: 'nope'"]),
        (another(BertForQuestionAnswering, num_labels=5), [], ["shape [5, 32] where span.weight of ours has [2, 32]"]),
        (as_a_pickle(), [], ["pickle", "--allow-pickle"]),
        (program, ["--allow-pickle"], ["bert cannot be loaded: its pickle holds more than weights"]),
        (plain_program, ["--allow-pickle"], ["bert cannot be loaded: its pickle holds more than weights"]),
        (cut, [], ["bert cannot be loaded"]),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 300), [], ["bert cannot be loaded"]),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), [], ["bert cannot be loaded"]),
        (lambda folder: None, ["--experts", "0"], ["num_experts=0 must be at least 1"]),
        (lambda folder: None, ["--experts", "-3"], ["num_experts=-3 must be at least 1"]),
        (lambda folder: None, ["--experts", "two"], ["--experts", "integer"]),
        (lambda folder: None, ["--experts", "1"], ["num_experts_per_tok=2", "num_experts=1"]),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, list) else "",
)
def test_one_line_and_no_folder(
    damage: Callable[[Path], object], options: list[str], named: list[str], bert: Path, widenet: Callable[..., Any]
) -> None:
    damage(bert)
    result = widenet("widen", "bert", *options, "--output", "wide")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("widenet: ") and result.err.count("\n") == 1
    assert all(words in result.err for words in named), result.err
    assert not Path("wide").exists() and not Path("executed").exists()


@pytest.mark.parametrize("was_there", [False, True])
def test_a_full_disk_leaves_nothing(
    was_there: bool, bert: Path, widenet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise SafetensorError("No space left on device")

    if was_there:
        Path("wide").mkdir()
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    result = widenet("widen", "bert", "--output", "wide")
    assert (result.code, result.err) == (2, "widenet: wide cannot be written: No space left on device\n")
    assert Path("wide").is_dir() is was_there and not any(Path("wide").glob("*"))


def test_a_pickle_of_weights_is_read_when_it_is_asked_for(bert: Path, widenet: Callable[..., Any]) -> None:
    as_a_pickle()(bert)
    result = widenet("widen", "bert", "--allow-pickle", "--output", "wide")
    assert (result.code, result.err) == (0, "")
    assert Path("wide/model.safetensors").is_file()
