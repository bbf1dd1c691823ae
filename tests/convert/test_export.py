"""ONNX files: each weight once, the same outputs whatever experts an input goes to, and every mistake one line."""

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from widenet.convert.dense import to_transformers
from widenet.convert.export import OnnxModel, export_onnx
from widenet.convert.sources import from_dense
from widenet.errors import WideNetError
from widenet.models.presets import create_model
from widenet.recipes import load_recipe
from widenet.runs.run import Run
from widenet.training.run import train

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)
import onnx  # noqa: E402 (only where it is installed)

ROOT = Path(__file__).parent.parent.parent
GRAPH = 120_000  # bytes of 12 blocks of nodes; one matrix of a model below for every block is more
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
Command = Callable[..., Any]  # the fixture `widenet` of conftest.py


def a_model(name: str, task: str | None = None, **fields: Any) -> Any:
    """A model whose tokens differ and go to all experts; with small weights all go the same way."""
    torch.manual_seed(0)
    model = create_model(name, task, **fields)
    for key, weight in model.named_parameters():
        if "norm" in key or key.endswith("bias"):
            nn.init.normal_(weight, mean=float("norm" in key and key.endswith("weight")), std=0.1)
        else:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return model.eval()


def images(model: Any, count: int, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    size = model.config.image_size
    return {"pixel_values": 2 * torch.randn(count, 3, 1, 1) + torch.randn(count, 3, size, size)}


def texts(model: Any, count: int, length: int) -> dict[str, Tensor]:
    """Random texts, the last of them with padding."""
    torch.manual_seed(count)
    shape = count, length
    mask = torch.ones(shape, dtype=torch.long)
    mask[-1, length // 2 + 1 :] = 0
    words = torch.randint(1, model.config.vocab_size, shape)
    return {"input_ids": words * mask, "attention_mask": mask, "token_type_ids": torch.randint(0, 2, shape)}


def difference(model: Any, file: Path, inputs: dict[str, Tensor]) -> float:
    """The largest difference of any output from the plain loop's; they must have the same names and shapes."""
    model.set_experts_implementation("eager")  # the plain loop
    with torch.no_grad():
        expected = model(**inputs)
    found = vars(OnnxModel(file, model.config)(**inputs))
    assert {*found} - {"balance_loss", "routing"} == {*expected}
    assert all(found[name].shape == expected[name].shape for name in expected)
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def routes(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Which experts each token goes to: [blocks, tokens, experts], 0 or 1."""
    with torch.no_grad():
        routing = model(**inputs, output_routing=True).routing
    return torch.stack([nn.functional.one_hot(record.experts, 4).sum(1) for record in routing])


def rerouted(model: Any, here: dict[str, Tensor], there: dict[str, Tensor]) -> bool:
    """Whether in every block some token goes elsewhere than that of the same place in another input."""
    first, second = routes(model, here), routes(model, there)
    tokens = min(first.shape[1], second.shape[1])
    return bool((first[:, :tokens] != second[:, :tokens]).flatten(1).any(1).all())


def weights(model: Any) -> int:
    return 4 * sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    shape = [f"model.{key}={value}" for key, value in (SMALL | {"hidden_size": 48}).items()]
    train(load_recipe("digits", [*shape, "epochs=10", "training.batch_size=64"]), folder)
    return folder


# ---- what is in the file ----


def test_images_in_12_blocks(tmp_path: Path) -> None:
    model = a_model("widenet-digits", num_hidden_layers=12)
    model.train()
    file = export_onnx(model, tmp_path / "model.onnx")
    assert model.training
    model.eval()
    assert weights(model) < file.stat().st_size < 1.05 * weights(model) + GRAPH
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    traced = {"pixel_values": torch.zeros(2, 3, 8, 8)}
    for count in (1, 3, 64):
        inputs = images(model, count)
        assert rerouted(model, inputs, traced)
        assert difference(model, file, inputs) < 1e-4
    assert routes(model, inputs).sum(1).min() > 0  # every expert of every block has work


def test_texts_in_6_blocks(tmp_path: Path) -> None:
    model = a_model("widenet-text-tiny", "text-classification", num_hidden_layers=6, num_labels=3)
    file = export_onnx(model, tmp_path / "model.onnx")
    assert weights(model) < file.stat().st_size < 1.05 * weights(model) + GRAPH
    traced = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), torch.ones(2, 8, dtype=torch.long))
    for count, length in ((1, 1), (1, 128), (3, 5), (64, 37)):
        inputs = texts(model, count, length)
        assert length == 1 or rerouted(model, inputs, traced)
        assert difference(model, file, inputs) < 1e-4
    with pytest.raises(Exception, match="indices"):  # longer than the model reads
        OnnxModel(file, model.config)(**texts(model, 1, 129))


@pytest.mark.parametrize(
    ("name", "task", "fields"),
    [
        ("vit-moe-digits", "image-classification", {"moe_layers": [1], "hidden_act": "gelu_new"}),  # unshared
        ("widenet-digits", "features", {"eval_capacity_factor": 0.5, "num_routing_groups": 1}),
        ("albert-tiny", "pretraining", {"type_vocab_size": 1}),
        ("widenet-text-tiny", "question-answering", {"eval_capacity_factor": 0.7, "num_experts_per_tok": 1}),
    ],
)
def test_every_kind(tmp_path: Path, name: str, task: str, fields: dict[str, Any]) -> None:
    model = a_model(name, task, **SMALL, **fields)
    file = export_onnx(model, tmp_path / "model.onnx")
    for count in (1, 3):
        inputs = images(model, count) if "pixel" in model.main_input_name else texts(model, count, 11)
        if fields.get("type_vocab_size") == 1:
            del inputs["token_type_ids"]
        assert difference(model, file, inputs) < 1e-4


def test_in_8_bits(run: Path, tmp_path: Path, widenet: Command) -> None:
    file, whole = tmp_path / "int8.onnx", run / "model.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = widenet("export", str(run), "--output", str(file), "--int8")
    assert (result.code, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    assert rows == [["file", "bytes"], *([str(each), f"{each.stat().st_size:,}"] for each in (file, whole))]
    stored = onnx.load(file).graph.initializer
    large = [each for each in stored if len(each.dims) == 2 and ".encoder." in each.name]
    routers = [each for each in large if ".routers." in each.name]
    assert [each.data_type for each in routers] == [onnx.TensorProto.FLOAT]
    assert {each.data_type for each in large if each not in routers} == {onnx.TensorProto.INT8}
    assert len(large) == 1 + 4 + 2 * 4  # each once: router, attention, experts
    found = Run(run)
    task = found.task.reload(found.recipe, found.model(), found.processor())
    exact = task.test()[""]
    task.model = OnnxModel(file, task.model.config)  # type: ignore[assignment]
    rough = task.test()[""]
    assert exact["accuracy"] > 0.5
    assert abs(rough["accuracy"] - exact["accuracy"]) < 0.02
    assert 0 < abs(rough["loss"] - exact["loss"]) < 0.05


def test_8_bits_are_a_quarter(tmp_path: Path) -> None:
    model = a_model("widenet-text-tiny", "text-classification", vocab_size=8000)
    file = export_onnx(model, tmp_path / "model.onnx", int8=True)
    assert file.stat().st_size < 0.3 * weights(model) + GRAPH / 4
    found = OnnxModel(file, model.config)(**texts(model, 3, 9)).logits
    assert found.isfinite().all()


def test_torch_export() -> None:
    model = a_model("widenet-digits", **SMALL)
    model.set_experts_implementation("widenet_every")
    example, other = images(model, 2), images(model, 5, seed=1)
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (), example, dynamic_shapes=shapes)
    assert rerouted(model, other, example)
    with torch.no_grad():
        found, expected = program.module()(**other).logits, model(**other).logits
    assert torch.allclose(found, expected, atol=1e-5)


# ---- the command ----


def test_the_documents_snippets(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widenet: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/digits").symlink_to(run)
    text = (ROOT / "docs/onnx.md").read_text(encoding="utf-8")
    space: dict[str, Any] = {}
    shown = ""
    for language, code in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        if language == "python":
            exec(code, space)
            shown += capsys.readouterr().out
            continue
        for line in code.splitlines():
            words = line.partition("#")[0].split()[1:]
            if words[0] != "train":  # that run is there
                assert widenet(*words).code == 0
    assert "(3, 10) ['pixel_values'] ['logits']" in shown


def test_mistakes(run: Path, tmp_path: Path, widenet: Command) -> None:
    (tmp_path / "there.onnx").write_text("x")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text((run / "config.json").read_text())
    (tmp_path / "broken/model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-9])
    before = sorted(tmp_path.rglob("*"))
    good = str(run)
    for source, output, expected in (
        (good, "model.bin", "must end in .onnx"),
        (good, "none/model.onnx", "none does not exist"),
        (good, "folder.onnx", "is a folder"),
        (good, "there.onnx", "--overwrite"),
        ("none", "model.onnx", "none does not exist"),
        ("empty", "model.onnx", "config.json"),
        ("bert", "model.onnx", "gpt2"),
        ("broken", "model.onnx", "cannot be loaded"),
    ):
        result = widenet("export", str(tmp_path / source), "--output", str(tmp_path / output))
        assert (result.code, result.out) == (2, ""), output
        assert expected in result.err
        assert result.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.onnx").read_text() == "x"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_packages_that_are_missing(
    run: Path, tmp_path: Path, widenet: Command, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = widenet("export", str(run), "--output", str(tmp_path / "model.onnx"), "--int8")
    assert result.code == 2
    assert result.err.endswith(f"needs the package {package}: pip install 'widenet[export]'\n")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: Any, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = a_model("vit-digits", **SMALL)
    (tmp_path / "model.onnx").write_text("an earlier one")
    monkeypatch.setattr("widenet.convert.export._trace", lambda model: onnx.ModelProto())
    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(WideNetError, match=r"model\.onnx cannot be written: No space left"):
        export_onnx(model, tmp_path / "model.onnx", overwrite=True)
    assert (tmp_path / "model.onnx").read_text() == "an earlier one"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_dense_model_of_others(tmp_path: Path) -> None:
    theirs = to_transformers(a_model("bert-tiny", "features"))
    theirs.save_pretrained(tmp_path / "bert")
    file = export_onnx(tmp_path / "bert", tmp_path / "bert.onnx")
    assert difference(from_dense(theirs).eval(), file, texts(from_dense(theirs), 3, 7)) < 1e-5


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WideNetError, match="Linear is no architecture that can be read"):
        export_onnx(nn.Linear(2, 2), tmp_path / "model.onnx")
    monkeypatch.setattr("widenet.convert.export.LARGEST", 100)
    with pytest.raises(WideNetError, match="bytes of weights; one ONNX file holds at most 100"):
        export_onnx(a_model("vit-digits", **SMALL), tmp_path / "model.onnx")
    (tmp_path / "text.onnx").write_text("no ONNX")
    with pytest.raises(WideNetError, match=r"text\.onnx cannot be loaded"):
        OnnxModel(tmp_path / "text.onnx", create_model("vit-digits").config)


@pytest.mark.parametrize("int8", [False, True])
def test_the_file_says_what_its_model_is(int8: bool, tmp_path: Path) -> None:
    names = {0: "cat", 1: "dög"}
    model = create_model("widenet-digits", id2label=names)
    file = export_onnx(model, tmp_path / "model.onnx", int8=int8)
    said = {each.key: each.value for each in onnx.load(file).metadata_props}
    assert (said["architecture"], said["task"]) == ("WideNetForImageClassification", "image-classification")
    assert json.loads(said["id2label"]) == {str(index): name for index, name in names.items()}
    features = export_onnx(create_model("widenet-digits", "features"), tmp_path / "features.onnx")
    assert "id2label" not in {each.key for each in onnx.load(features).metadata_props}
