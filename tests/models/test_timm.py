"""timm's names and interface: what timm's own tests/test_models.py asks of a model, and Eq 8 in its training loop."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import FeatureInfo
from timm.models._hub import save_for_hf
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from widenet import WideNetError, WideNetForImageClassification, WideNetTimmModel, create_config, create_model
from widenet.models.timm import WithBalance

PRESETS = {
    "widenet_tiny_patch16_224": "widenet-ti16",
    "widenet_base_patch16_224": "widenet-b16",
    "widenet_large_patch16_224": "widenet-l16",
    "widenet_huge_patch16_224": "widenet-h16",
    "vit_moe_base_patch16_224": "vit-moe-b16",
    "vit_moe_large_patch16_224": "vit-moe-l16",
}
NAMES = list(PRESETS)
TINY = "widenet_tiny_patch16_224"
LABELS = torch.tensor([4, 0, 2, 2])


def make_model(name: str = TINY, **arguments: Any) -> Any:
    """Three blocks of width 16 on 32-pixel images; ViT-MoE: one mixture, in the last block."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"img_size": 32, "embed_dim": 16, "depth": 3, "num_heads": 2, "intermediate_size": 24}
    small |= {"expert_intermediate_size": 20, "initializer_range": 0.2}
    if name.startswith("vit_moe"):
        small["moe_layers"] = [2]
    return timm.create_model(name, **{**small, **arguments})


def images(N: int = 4, size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(N, channels, size, size, generator=torch.Generator().manual_seed(1))


def twin(model: WideNetTimmModel) -> WideNetForImageClassification:
    """The same weights in our own class."""
    other = WideNetForImageClassification(model.config)
    other.load_state_dict(model.state_dict())
    return other.train(model.training)


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters()]


def assert_same(left: list[Tensor], right: list[Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


# ---- names ----


def test_the_names_are_in_the_registry() -> None:
    assert set(timm.list_models("widenet*") + timm.list_models("vit_moe*")) == set(NAMES)
    assert timm.list_models("widenet*", pretrained=True) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_its_preset(name: str) -> None:
    with torch.device("meta"):
        model, ours = timm.create_model(name), create_model(PRESETS[name])
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in ours.state_dict().items()
    }
    assert isinstance(model, WideNetTimmModel)
    assert model.num_features == model.head_hidden_size == model.embed_dim == ours.config.hidden_size
    assert (model.num_classes, model.in_chans, model.img_size, model.patch_size) == (1000, 3, 224, 16)


def test_huge_is_1280_wide() -> None:
    assert create_config(PRESETS["widenet_huge_patch16_224"]).hidden_size == 1280


@pytest.mark.parametrize("name", NAMES)
def test_the_default_configuration_names_modules_that_exist(name: str) -> None:
    model = make_model(name)
    assert model.default_cfg is model.pretrained_cfg
    assert model.default_cfg["architecture"] == name and not model.default_cfg["url"]
    state = model.state_dict()
    assert model.default_cfg["first_conv"] + ".weight" in state
    assert model.default_cfg["classifier"] + ".weight" in state
    data = timm.data.resolve_data_config(model=model)
    assert data["input_size"] == (3, 224, 224)
    assert data["mean"] == data["std"] == (0.5, 0.5, 0.5)
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        make_model(name, pretrained=True)


# ---- timm's tests of a model ----


@pytest.mark.parametrize("name", NAMES)
def test_forward_alone_and_with_gradient_checkpointing(name: str) -> None:
    model = make_model(name).eval()
    outputs = model(images())
    assert outputs.shape == (4, 1000) and outputs.isfinite().all()
    model.set_grad_checkpointing()
    assert torch.equal(model(images()), outputs)
    assert model.model.encoder.gradient_checkpointing
    model.set_grad_checkpointing(False)
    assert not model.model.encoder.gradient_checkpointing


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_forward_on_the_meta_device(name: str, training: bool) -> None:
    model = make_model(name, device="meta").train(training)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model(images().to("meta")).shape == (4, 1000)


def test_a_model_is_made_in_the_type_and_on_the_device_asked_for() -> None:
    model = make_model(device="cpu", dtype=torch.bfloat16).eval()
    assert {parameter.dtype for key, parameter in model.named_parameters() if "router" not in key} == {torch.bfloat16}
    assert model(images().bfloat16()).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in make_model().parameters()} == {torch.float32}


def test_another_pooling_leaves_the_tokens_as_they_are() -> None:
    model = make_model(global_pool="token").eval()
    tokens = model.forward_features(images())
    model.reset_classifier(3, "avg")
    assert model.config.pooling == "cls"  # there still is a [CLS] token
    assert torch.equal(model.forward_features(images()), tokens)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_backward_reaches_every_parameter(name: str, checkpointing: bool) -> None:
    model = make_model(name, num_classes=42).train()
    model.set_grad_checkpointing(checkpointing)
    outputs = model(images(2))
    assert outputs.shape == (2, 42)
    outputs.mean().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_features_head_and_classifier(name: str) -> None:
    model = make_model(name).eval()
    tokens = model.forward_features(images())
    assert tokens.shape == (4, 4, model.num_features)
    assert torch.equal(model.forward_head(tokens), model(images()))
    pooled = model.forward_head(tokens, pre_logits=True)
    assert pooled.shape == (4, model.head_hidden_size)
    assert model.get_classifier() is model.classifier

    model.reset_classifier(0)
    assert model.num_classes == 0 and torch.equal(model(images()), pooled)
    model.reset_classifier(0, "")
    assert torch.equal(model(images()), tokens)
    model.reset_classifier(7, "avg")
    assert model(images()).shape == (4, 7) and model.get_classifier().weight.std() < 0.4

    assert make_model(name, num_classes=0).eval()(images()).shape == (4, model.num_features)
    assert make_model(name, num_classes=0, global_pool="").eval()(images()).shape == (4, 4, model.num_features)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "token"])
def test_pooling(pool: str) -> None:
    model = make_model(global_pool=pool, use_representation=False).eval()
    tokens = model.forward_features(images())
    assert tokens.shape[1] == 4 + (pool == "token") and model.num_prefix_tokens == (pool == "token")
    expected = {"avg": tokens.mean(1), "max": tokens.amax(1), "token": tokens[:, 0]}
    expected["avgmax"] = (expected["avg"] + expected["max"]) / 2
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), expected[pool])


@torch.no_grad()
def test_the_norm_after_pooling() -> None:
    model = make_model(norm_after_pooling=True).eval()
    model.model.norm.weight.normal_()
    torch.testing.assert_close(model(images()), twin(model)(images()).logits)
    model.prune_intermediate_layers(2)
    assert not list(model.model.norm.parameters())


@torch.no_grad()
def test_head_dropout_acts_in_training_only() -> None:
    model = make_model(drop_rate=0.5)
    tokens = model.eval().forward_features(images())
    assert torch.equal(model.forward_head(tokens), model.forward_head(tokens))
    dropped = model.train().forward_head(tokens, pre_logits=True)
    assert 0.2 < (dropped == 0).float().mean() < 0.8


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_intermediates(pool: str) -> None:
    model = make_model(global_pool=pool).eval()
    final, maps = model.forward_intermediates(images())
    assert [tuple(each.shape) for each in maps] == [(4, 16, 2, 2)] * 3
    assert FeatureInfo(model.feature_info, (0, 1, 2)).channels() == [16] * 3
    assert FeatureInfo(model.feature_info, (0, 1, 2)).reduction() == [16] * 3
    assert torch.equal(final, model.forward_features(images()))

    prefix = pool == "token"
    _, lists = model.forward_intermediates(images(), output_fmt="NLC", norm=True)
    assert torch.equal(lists[-1], final[:, prefix:])
    assert torch.equal(
        maps[0].flatten(2).transpose(1, 2), model.forward_intermediates(images(), output_fmt="NLC")[1][0]
    )
    (pair,) = model.forward_intermediates(images(), indices=1, return_prefix_tokens=True, intermediates_only=True)
    assert (len(pair) == 2 and pair[1].shape == (4, 1, 16)) if prefix else pair.shape == (4, 16, 2, 2)
    named = model.forward_intermediates(images(), indices=[0, -1], output_dict=True, return_prefix_tokens=True)
    assert torch.equal(named["image_features"], final) and len(named["image_intermediates"]) == 2
    assert ("image_intermediates_prefix" in named) == prefix
    with pytest.raises(WideNetError, match="unknown output_fmt"):
        model.forward_intermediates(images(), output_fmt="NHWC")


def test_stopping_early_leaves_out_the_later_blocks() -> None:
    model = make_model().eval()
    calls: list[int] = []
    model.model.encoder.routers[0].register_forward_hook(lambda *_: calls.append(1))
    whole = model.forward_intermediates(images(), indices=[1], intermediates_only=True)
    assert len(calls) == 3
    final, part = model.forward_intermediates(images(), indices=[1], stop_early=True, output_fmt="NLC", norm=True)
    assert len(calls) == 5
    assert torch.equal(final, part[0])
    part = model.forward_intermediates(images(), indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(part[0], whole[0])


@pytest.mark.parametrize("name", ["widenet_base_patch16_224", "vit_moe_base_patch16_224"])
def test_features_only_keeps_what_it_needs(name: str) -> None:
    extractor = make_model(name, features_only=True, out_indices=(0, 1)).eval()
    assert extractor.feature_info.channels() == [16, 16] and extractor.feature_info.reduction() == [16, 16]
    outputs = extractor(images())
    assert [tuple(output.shape) for output in outputs] == [(4, 16, 2, 2)] * 2
    whole = make_model(name).eval().forward_intermediates(images(), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(outputs, whole[:2], strict=True))
    encoder = extractor.model.model.encoder
    assert len(encoder.norms) == 2
    assert (len(encoder.attentions), len(encoder.experts)) == ((1, 1) if name.startswith("widenet") else (2, 0))
    extractor.train()
    sum(output.square().mean() for output in extractor(images())).backward()
    assert [key for key, parameter in extractor.named_parameters() if parameter.grad is None] == []


# ---- sizes and settings ----


def test_other_sizes_and_channels() -> None:
    assert make_model(img_size=48, in_chans=1)(images(2, 48, channels=1)).shape == (2, 1000)
    assert make_model(patch_size=8).eval().forward_features(images()).shape == (4, 16, 16)
    with pytest.raises(WideNetError, match="48×48"):
        make_model()(images(size=48))
    dynamic = make_model(dynamic_img_size=True).eval()
    assert torch.equal(dynamic(images()), make_model().eval()(images()))
    wide = torch.randn(2, 3, 32, 64)
    assert dynamic.forward_features(wide).shape == (2, 8, 16)
    assert dynamic.forward_intermediates(wide)[1][0].shape == (2, 16, 2, 4)


def test_settings_reach_the_configuration() -> None:
    config = make_model(proj_drop_rate=0.1, attn_drop_rate=0.2, num_experts=3, capacity_factor=2).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.2)
    assert (config.num_experts, config.capacity_factor) == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": (32, 48)}, "img_size=32×48 is not square"),
        ({"img_size": 40}, "patch_size=16 must divide image_size=40"),
        ({"drop_path_rate": 0.1}, "no stochastic depth"),
        ({"global_pool": "map"}, "unknown global_pool 'map'"),
        ({"qk_norm": True}, "unknown config field 'qk_norm'"),
    ],
)
def test_what_does_not_exist_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(WideNetError, match=message):
        make_model(**arguments)
    with pytest.raises(WideNetError, match=r"no \[CLS\] token"):
        make_model().reset_classifier(3, "token")


# ---- files ----


def test_the_state_dict_is_that_of_our_own_class(tmp_path: Path) -> None:
    model = make_model(num_classes=5).eval()
    ours = twin(model)
    torch.testing.assert_close(ours(images()).logits, model(images()))
    ours.save_pretrained(tmp_path)
    again = make_model(num_classes=5, checkpoint_path=str(tmp_path / "model.safetensors")).eval()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(again(images()), model(images()))


def test_a_checkpoint_of_another_size_and_task(tmp_path: Path) -> None:
    source = make_model(num_classes=5, global_pool="token")
    twin(source).save_pretrained(tmp_path)
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 5}
    changes = {"img_size": 48, "in_chans": 1, "num_classes": 3, "use_representation": False}
    model = make_model(pretrained=True, pretrained_cfg_overlay=overlay, global_pool="token", **changes).eval()
    assert model(images(2, 48, channels=1)).shape == (2, 3)
    old, new = source.state_dict(), model.state_dict()
    first = "model.embeddings.projection.weight"
    torch.testing.assert_close(new[first], old[first].sum(1, keepdim=True))
    positions = "model.embeddings.position_embeddings"
    assert new[positions].shape == (1, 10, 16) and torch.equal(new[positions][:, 0], old[positions][:, 0])
    untouched = [key for key in new if key.startswith("model.encoder")]
    assert all(torch.equal(new[key], old[key]) for key in untouched)
    features = make_model(
        pretrained=True, pretrained_cfg_overlay=overlay, global_pool="token", features_only=True, out_indices=[2]
    )
    assert features.eval()(images())[0].shape == (4, 16, 2, 2)


def test_a_folder_in_timms_format(tmp_path: Path) -> None:
    model = make_model(num_classes=5).eval()
    save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(again(images()), model(images()))


# ---- optimisation ----


def test_weight_decay_leaves_out_positions_and_every_bias() -> None:
    model = make_model(global_pool="token", num_register_tokens=2)
    named = model.no_weight_decay()
    assert named < set(dict(model.named_parameters()))
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.1)
    undecayed = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    for key, parameter in model.named_parameters():
        plain = key.endswith("bias") or "norm" in key or "position" in key or "cls" in key or "register" in key
        assert (id(parameter) in undecayed) == plain, key


def learning_rates(model: WideNetTimmModel) -> dict[str, float]:
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    return {key: scales[id(parameter)] for key, parameter in model.named_parameters()}


def test_layer_decay_gives_shared_modules_the_rate_of_their_last_block() -> None:
    # Head 1, block 2 and the final norm 1/2, block 1 1/4, block 0 1/8, embeddings 1/16.
    rates = learning_rates(make_model())
    by_prefix = {
        "classifier": 1,
        "model.representation": 1,
        "model.encoder.final_norm": 1 / 2,
        "model.encoder.attentions.0": 1 / 2,
        "model.encoder.experts.0": 1 / 2,
        "model.encoder.routers.0": 1 / 2,
        "model.encoder.norms.2": 1 / 2,
        "model.encoder.norms.1": 1 / 4,
        "model.encoder.norms.0": 1 / 8,
        "model.embeddings": 1 / 16,
    }
    for key, rate in rates.items():
        assert [expected for prefix, expected in by_prefix.items() if key.startswith(prefix)] == [rate], key


def test_layer_decay_without_sharing_is_a_vits() -> None:
    rates = learning_rates(make_model("vit_moe_base_patch16_224"))
    for kind, indices in {"attentions": 3, "norms": 3, "feed_forwards": 2}.items():
        for index in range(indices):
            found = {rate for key, rate in rates.items() if f".{kind}.{index}." in key}
            assert found == {0.5 ** (3 - index)}
    assert {rate for key, rate in rates.items() if ".experts.0." in key or ".routers.0." in key} == {0.5}


# ---- Eq 8 under a loop that knows nothing of it ----


def expected_gradients(model: Any, main: Callable[[Tensor], Tensor], seed: int = 3) -> list[Tensor]:
    """Of main(logits) + λ·Σ l in our own class."""
    ours = twin(model)
    torch.manual_seed(seed)  # router noise
    output = ours(images())
    (main(output.logits) + ours.config.router_aux_loss_coef * output.balance_loss).backward()
    return gradients(ours)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross-entropy": lambda logits: cross_entropy(logits, LABELS),
    "smoothing": lambda logits: LabelSmoothingCrossEntropy(0.1)(logits, LABELS),
    "mixup": lambda logits: SoftTargetCrossEntropy()(logits, 0.7 * one_hot(LABELS, 5) + 0.06),
    "binary": lambda logits: BinaryCrossEntropy(sum_classes=True)(logits, one_hot(LABELS, 5).float()),
    "one by one": lambda logits: sum(cross_entropy(row, label) for row, label in zip(logits, LABELS, strict=True)) / 4,
}


@pytest.mark.parametrize("scale", [1.0, 65536.0, 0.25])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("name", ["widenet_base_patch16_224", "vit_moe_base_patch16_224"])
def test_the_balance_loss_is_in_the_gradient(name: str, loss: Callable[[Tensor], Tensor], scale: float) -> None:
    model = make_model(name, num_classes=5, router_aux_loss_coef=0.3).train()
    expected = expected_gradients(model, loss)
    torch.manual_seed(3)
    value = loss(model(images()))
    assert type(value) is Tensor
    assert value.item() == pytest.approx(loss(model.eval()(images())).item(), abs=0.3)  # and not 0.3·Σ l more
    (scale * value).backward()
    assert_same([gradient / scale for gradient in gradients(model)], expected)


def test_the_value_is_the_main_loss_to_the_bit() -> None:
    model = make_model(num_classes=5).train()
    ours = twin(model)
    torch.manual_seed(3)
    logits = model(images())
    torch.manual_seed(3)
    assert cross_entropy(logits, LABELS).item() == cross_entropy(ours(images()).logits, LABELS).item()


def test_our_own_loss_is_the_reference() -> None:
    model = make_model(num_classes=5).train()
    ours = twin(model)
    torch.manual_seed(3)
    ours(images(), labels=LABELS).loss.backward()
    torch.manual_seed(3)
    cross_entropy(model(images()), LABELS).backward()
    assert_same(gradients(model), gradients(ours))


def test_without_the_balance_loss_the_gradients_differ() -> None:
    # The tests above would pass on nothing if λ·Σ l were too small to see.
    left, right = (
        make_model(num_classes=5, router_aux_loss_coef=0.3),
        make_model(num_classes=5, router_aux_loss_coef=0),
    )
    for model in (left, right):
        torch.manual_seed(3)
        cross_entropy(model.train()(images()), LABELS).backward()
    router = "model.encoder.routers.0.weight"
    difference = left.get_parameter(router).grad - right.get_parameter(router).grad
    assert difference.norm() > 0.1 * right.get_parameter(router).grad.norm()
    assert type(right(images())) is Tensor  # λ = 0: nothing to carry


def test_gradient_accumulation_takes_the_mean() -> None:
    model = make_model(num_classes=5, router_aux_loss_coef=0.3).train()
    loss = LOSSES["cross-entropy"]
    first, second = expected_gradients(model, loss, seed=3), expected_gradients(model, loss, seed=4)
    for seed in (3, 4):
        torch.manual_seed(seed)
        value = loss(model(images()))
        value /= 2  # in place, as timm's train.py does
        value.backward()
    assert_same(gradients(model), [(a + b) / 2 for a, b in zip(first, second, strict=True)])


def test_timms_task_with_a_gradient_scaler() -> None:
    model = make_model(num_classes=5, router_aux_loss_coef=0.3).train()
    expected = expected_gradients(model, LOSSES["smoothing"])
    task = ClassificationTask(model, criterion=LabelSmoothingCrossEntropy(0.1), verbose=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    torch.manual_seed(3)
    scaler.scale(task(images(), LABELS)["loss"]).backward()
    scaler.unscale_(optimizer)
    assert_same(gradients(model), expected)


def test_autocast_keeps_the_balance_loss() -> None:
    model = make_model(num_classes=5).train()
    ours = twin(model)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(3)
        cross_entropy(model(images()), LABELS).backward()
        torch.manual_seed(3)
        ours(images(), labels=LABELS).loss.backward()
    for (key, left), right in zip(model.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=0.05, atol=1e-3, msg=key)


def test_gradient_checkpointing_counts_the_balance_loss_once() -> None:
    model = make_model(num_classes=5, router_aux_loss_coef=0.3).train()
    expected = expected_gradients(model, LOSSES["cross-entropy"])
    model.set_grad_checkpointing()
    torch.manual_seed(3)
    LOSSES["cross-entropy"](model(images())).backward()
    assert_same(gradients(model), expected)


def test_features_carry_it_too() -> None:
    model = make_model(num_classes=5, router_aux_loss_coef=0.3).train()
    expected = expected_gradients(model, LOSSES["cross-entropy"])
    torch.manual_seed(3)
    LOSSES["cross-entropy"](model.forward_head(model.forward_features(images()))).backward()
    assert_same(gradients(model), expected)
    # A head over several blocks' maps counts it once.
    model.zero_grad()
    torch.manual_seed(3)
    maps = model.forward_intermediates(images(), intermediates_only=True, output_fmt="NLC")
    (0 * torch.cat(maps, 1)).mean().backward()
    ours = twin(model)
    torch.manual_seed(3)
    (0.3 * ours(images()).balance_loss).backward()
    router = "model.encoder.routers.0.weight"
    torch.testing.assert_close(model.get_parameter(router).grad, ours.get_parameter(router).grad)


def test_data_parallelism_averages_it(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        model = make_model(num_classes=5, router_aux_loss_coef=0.3).train()
        expected = expected_gradients(model, LOSSES["cross-entropy"])
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            model.zero_grad()
            torch.manual_seed(3)
            LOSSES["cross-entropy"](parallel(images())).backward()
            assert_same(gradients(model), expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("experts", "with_loss"), [("widenet_sorted", False), ("widenet_every", False), ("widenet_every", True)]
)
def test_a_compiled_model_keeps_it(experts: str, with_loss: bool) -> None:
    model = make_model(num_classes=5, depth=2, router_noise_std=0.0, router_aux_loss_coef=0.3).train()
    model.model.set_experts_implementation(experts)
    one_graph = experts == "widenet_every"  # no size that depends on the data
    expected = expected_gradients(model, LOSSES["cross-entropy"])

    def main(x: Tensor) -> Tensor:
        return cross_entropy(model(x), LABELS)

    torch._dynamo.reset()
    if with_loss:
        torch.compile(main, backend="aot_eager", fullgraph=True)(images()).backward()
    else:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=one_graph)
        cross_entropy(compiled(images()), LABELS).backward()
    assert_same(gradients(model), expected)


def test_a_size_keeps_its_type() -> None:
    assert type(make_model(num_classes=5).train()(images()).shape) is torch.Size


def test_evaluation_returns_plain_tensors() -> None:
    model = make_model(num_classes=5).eval()
    assert type(model(images())) is type(model.forward_features(images())) is Tensor
    pixels, ours = images().requires_grad_(), twin(model)
    (saliency,) = torch.autograd.grad(model(pixels)[0, 2], pixels)
    (expected,) = torch.autograd.grad(ours(pixels).logits[0, 2], pixels)
    assert torch.equal(saliency, expected)
    with torch.no_grad():
        assert type(model.train()(images())) is Tensor


def test_what_is_computed_from_logits_carries_it_along() -> None:
    extra = torch.tensor(2.0, requires_grad=True)
    weight = torch.ones(6, requires_grad=True)
    carrier = (weight * 1).view(2, 3).as_subclass(WithBalance)
    carrier.carried = (3 * extra,)

    def share(number: Tensor) -> float:
        assert type(number) is Tensor
        gradient = torch.autograd.grad(number, extra, retain_graph=True, allow_unused=True)[0]
        return 0.0 if gradient is None else gradient.item()

    assert share(carrier.sum()) == share(carrier.float()[0, 1:].exp().mean()) == 3
    assert share(torch.cat([carrier, carrier]).mean()) == 3  # the same loss, once
    assert share(torch.stack(carrier.unbind(1)).max()) == share(carrier.max(1).values.sum()) == 3
    assert share(carrier.clone().mul_(2).sum()) == 3
    assert share(0.3 * carrier.mean() + 0.7 * carrier.sum()) == pytest.approx(3)  # a·l₁ + b·l₂: a + b times
    assert share(carrier.sum() + (carrier.detach() * weight.view(2, 3)).sum()) == 3
    assert type(carrier.detach()) is type(carrier.argmax(1)) is type(carrier > 0) is Tensor
    other = carrier.clone()
    other.carried = (extra,)
    assert share((carrier + other).sum()) == 4
    assert "WithBalance" in repr(carrier)
    # The value of a number is that of a plain tensor.
    assert carrier.sum().item() == 6


def test_no_loss_is_kept_on_a_module() -> None:
    model = make_model(num_classes=5).train()
    model(images())
    copy.deepcopy(model)  # refuses tensors that carry a graph
    for module in model.modules():
        assert not any(isinstance(value, Tensor) for value in vars(module).values())


@pytest.mark.parametrize("name", NAMES)
def test_export(name: str) -> None:
    model = make_model(name).eval()
    model.model.set_experts_implementation("widenet_every")
    program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images()), model(images()))
