"""Model folders: every kind of damage is one line, and adapting keeps exactly what fits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from transformers import ViTImageProcessor
from transformers.utils import logging

from widenet.convert.folder import adapt_classifier, load_model, load_processor
from widenet.errors import WideNetError
from widenet.models.presets import create_config, create_model
from widenet.models.vision import WideNetForImageClassification

POSITIONS = "model.embeddings.position_embeddings"
NAMES = ["ant", "bee", "cat"]


def small_config(**fields: Any) -> Any:
    labels = {name: index for index, name in enumerate(NAMES)}
    names = {"num_labels": 3, "id2label": dict(enumerate(NAMES)), "label2id": labels}
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return create_config("widenet-digits", **{**shape, **names, **fields})


def small_model(**fields: Any) -> WideNetForImageClassification:
    torch.manual_seed(0)
    return WideNetForImageClassification(small_config(**fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    small_model().save_pretrained(place)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(place)
    return place


def load_classifier(folder: str | Path) -> WideNetForImageClassification:
    return load_model(folder, WideNetForImageClassification)


def edit_config(**fields: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return edit


def without_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def refusal(function: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(WideNetError) as caught:
        function(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert str(folder) in message
    return message


# ---- loading ----


def test_a_saved_model_loads_equal(folder: Path) -> None:
    model, expected = load_classifier(folder), small_model()
    assert model.config.id2label == dict(enumerate(NAMES))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert load_classifier(str(folder)).config.hidden_size == 16


def test_weights_in_several_files(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    weight = load_classifier(tmp_path).get_parameter("classifier.weight")
    assert torch.equal(weight, small_model().get_parameter("classifier.weight"))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "'bert'"),
        (lambda folder: (folder / "config.json").write_text("{}"), "None"),
        (edit_config(model_type="vit"), "'vit'"),
        (edit_config(num_experts_per_tok=9), "num_experts_per_tok=9"),
        (edit_config(hidden_size="wide"), "hidden_size"),
        (edit_config(hidden_size=32), "has the shape"),
        (edit_config(num_experts=8), "[8, 16, 16]"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no tensors" * 20), "cannot be loaded"),
        (truncated, "cannot be loaded"),
        (without_tensor, "classifier.bias"),
    ],
)
def test_damage_is_one_line(folder: Path, damage: Callable[[Path], object], expected: str) -> None:
    load_classifier(folder)
    damage(folder)
    assert expected in refusal(load_classifier, folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "does not exist" in refusal(load_classifier, tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "does not exist" in refusal(load_classifier, tmp_path / "file")


def test_the_verbosity_of_transformers_is_left_as_it_was(folder: Path) -> None:
    before = logging.get_verbosity()
    try:
        logging.set_verbosity_info()
        load_classifier(folder)
        assert logging.get_verbosity() == logging.INFO
        truncated(folder)
        refusal(load_classifier, folder)
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity(before)


def test_processor(folder: Path) -> None:
    assert load_processor(folder).size["height"] == 8
    (folder / "preprocessor_config.json").write_text("{")
    assert "preprocessor_config.json" in refusal(load_processor, folder)
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refusal(load_processor, folder)


# ---- adapting ----


def test_same_classes_keep_everything() -> None:
    source = small_model(use_representation=True)
    target = adapt_classifier(source, NAMES, {"hidden_dropout_prob": 0.3})
    assert target.config.hidden_dropout_prob == 0.3
    assert target is not source
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


def test_the_source_is_not_changed() -> None:
    source = small_model()
    adapt_classifier(source, ["x", "y"], {"image_size": 16})
    assert source.config.image_size == 8
    for name, tensor in small_model().state_dict().items():
        assert torch.equal(source.state_dict()[name], tensor), name


@pytest.mark.parametrize("names", [["dog", "eel"], ["ant", "bee", "dog"], ["bee", "ant", "cat"]])
def test_other_classes_get_a_new_head(names: list[str]) -> None:
    source = small_model()
    target = adapt_classifier(source, names, {})
    assert list(target.config.id2label.values()) == names
    assert target.config.label2id == {name: index for index, name in enumerate(names)}
    assert target.classifier.weight.shape == (len(names), 16)
    rows = min(len(names), 3)
    assert not torch.equal(target.classifier.weight[:rows], source.classifier.weight[:rows])
    assert torch.equal(target.get_parameter(POSITIONS), source.get_parameter(POSITIONS))
    assert target(torch.zeros(1, 3, 8, 8)).logits.shape == (1, len(names))


def test_the_representation_layer_is_dropped() -> None:
    source = small_model(use_representation=True)
    target = adapt_classifier(source, ["x", "y"], {"use_representation": False})
    assert set(source.state_dict()) - set(target.state_dict()) == {
        "model.representation.weight",
        "model.representation.bias",
    }


def test_a_representation_layer_cannot_be_conjured() -> None:
    with pytest.raises(WideNetError, match=r"lacks the weights .*representation"):
        adapt_classifier(small_model(), NAMES, {"use_representation": True})


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("size", [16, 4])
def test_positions_are_interpolated(pooling: str, size: int) -> None:
    source = small_model(pooling=pooling)
    target = adapt_classifier(source, NAMES, {"image_size": size})
    grid, cls = size // 2, int(pooling == "cls")
    found = target.get_parameter(POSITIONS)
    assert found.shape == (1, grid**2 + cls, 16)
    before = source.get_parameter(POSITIONS)
    assert torch.equal(found[:, :cls], before[:, :cls])  # [CLS] has no place in the grid
    expected = resample_abs_pos_embed(before, [grid, grid], num_prefix_tokens=cls)
    assert torch.allclose(found, expected)
    assert target(torch.zeros(1, 3, size, size)).logits.shape == (1, 3)


def test_interpolating_a_constant_gives_the_constant() -> None:
    source = small_model()
    torch.nn.init.constant_(source.get_parameter(POSITIONS), 0.7)
    found = adapt_classifier(source, NAMES, {"image_size": 12}).get_parameter(POSITIONS)
    assert torch.allclose(found, torch.full((1, 36, 16), 0.7), atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [{"hidden_size": 32}, {"num_experts": 8}, {"pooling": "cls"}, {"patch_size": 4}, {"num_hidden_layers": 4}],
)
def test_weights_that_do_not_fit(overrides: dict[str, Any]) -> None:
    with pytest.raises(WideNetError) as caught:
        adapt_classifier(small_model(), NAMES, {**overrides, "num_routing_groups": None})
    assert "\n" not in str(caught.value)


def test_presets_start_from_their_own_classes() -> None:
    # a preset's classes have no names; three of its own are as good as three others
    assert create_model("widenet-digits", num_labels=3).config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
