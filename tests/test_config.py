"""The space of models: defaults, the walk through depth, round trips, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from widenet.config import Step, WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.errors import WideNetError

UNSHARED: dict[str, Any] = {"share_attention": False, "share_ffn": False}


def steps(**fields: Any) -> list[tuple[int | None, ...]]:
    """The plan of a four-block model, as (attention, norms, dense, experts, router) tuples."""
    return [tuple(step) for step in WideNetConfig(**{"num_hidden_layers": 4, **fields}).depth_plan()]


def test_the_defaults_are_widenet_b() -> None:
    config = WideNetVisionConfig()
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)
    assert (config.num_experts, config.num_experts_per_tok) == (4, 2)
    assert (config.capacity_factor, config.eval_capacity_factor) == (1.2, None)
    assert (config.router_aux_loss_coef, config.router_noise_std, config.normalize_gates) == (0.01, 0.25, False)
    assert (config.share_attention, config.share_ffn, config.share_norm) == (True, True, False)
    assert config.layer_norm_eps == 1e-6 and config.norm_first
    assert (config.image_size, config.patch_size, config.num_patches) == (224, 16, 196)


def test_the_defaults_of_text_are_berts() -> None:
    config = WideNetTextConfig()
    assert (config.vocab_size, config.embedding_size, config.max_position_embeddings) == (30000, 128, 512)
    assert (config.type_vocab_size, config.pad_token_id, config.tie_word_embeddings) == (2, 0, True)
    assert (config.layer_norm_eps, config.norm_first) == (1e-12, False)
    assert (config.hidden_dropout_prob, config.capacity_factor, config.share_norm) == (0, 1.2, False)


def test_what_is_left_open_follows_from_the_rest() -> None:
    config = WideNetConfig(num_hidden_layers=6, num_experts=8, intermediate_size=100, **UNSHARED)
    assert config.num_routing_groups == 6  # one group per block
    assert config.expert_intermediate_size == 100
    assert config.router_noise_std == 1 / 8  # Eq 2
    assert config.share_router is False  # follows share_ffn
    assert WideNetConfig().share_router is True


# ---- the walk through depth ----

N = None


def test_a_widenet_shares_everything_but_the_norms() -> None:
    assert steps() == [(0, 0, N, 0, 0), (0, 1, N, 0, 0), (0, 2, N, 0, 0), (0, 3, N, 0, 0)]


def test_albert_shares_the_norms_too_and_has_no_mixture() -> None:
    assert steps(share_norm=True, moe_layers="none") == [(0, 0, 0, N, N)] * 4


def test_a_vit_moe_shares_nothing_and_mixes_in_its_last_blocks() -> None:
    plan = [(0, 0, 0, N, N), (1, 1, 1, N, N), (2, 2, N, 0, 0), (3, 3, N, 1, 1)]
    assert steps(moe_layers=[2, 3], **UNSHARED) == plan
    assert steps(moe_layers=[3, 2, 2], **UNSHARED) == plan  # order and repetition say nothing


def test_shared_dense_and_shared_mixture_are_one_each() -> None:
    plan = [(0, 0, 0, N, N), (0, 1, N, 0, 0), (0, 2, 0, N, N), (0, 3, N, 0, 0)]
    assert steps(moe_layers=[1, 3]) == plan


def test_only_the_first_mixture_of_a_group_routes() -> None:
    # Two groups of two blocks (Fig 3).
    shared = [(0, 0, N, 0, 0), (0, 1, N, 0, N), (0, 2, N, 0, 0), (0, 3, N, 0, N)]
    assert steps(num_routing_groups=2) == shared
    # One router per routing, so two and not four.
    own = [(0, 0, N, 0, 0), (0, 1, N, 0, N), (0, 2, N, 0, 1), (0, 3, N, 0, N)]
    assert steps(num_routing_groups=2, share_router=False) == own
    # The first mixture of the group, which need not be its first block.
    later = [(0, 0, 0, N, N), (0, 1, N, 0, 0), (0, 2, N, 0, 0), (0, 3, N, 0, N)]
    assert steps(num_routing_groups=2, moe_layers=[1, 2, 3]) == later


def test_a_router_per_block_over_shared_experts() -> None:
    assert [step[3:] for step in steps(share_router=False)] == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_each_sharing_group_has_its_own_modules() -> None:
    assert steps(num_sharing_groups=2) == [(0, 0, N, 0, 0), (0, 1, N, 0, 0), (1, 2, N, 1, 1), (1, 3, N, 1, 1)]
    dense = [(0, 0, 0, N, N), (0, 0, 0, N, N), (1, 1, 1, N, N), (1, 1, 1, N, N)]
    assert steps(num_sharing_groups=2, share_norm=True, moe_layers="none") == dense
    # the one mixture of the second group is experts 0; each group's dense blocks share
    mixed = [(0, 0, 0, N, N), (0, 1, 0, N, N), (1, 2, N, 0, 0), (1, 3, 1, N, N)]
    assert steps(num_sharing_groups=2, moe_layers=[2]) == mixed
    # what is not shared is not grouped; a group per block shares nothing
    assert steps(num_sharing_groups=2, **UNSHARED) == steps(**UNSHARED) == steps(num_sharing_groups=4)


def test_steps_have_names() -> None:
    assert WideNetConfig(num_hidden_layers=1).depth_plan() == [
        Step(attention=0, norms=0, dense=None, experts=0, router=0)
    ]


# ---- round trips ----


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_routing_groups": 3, "num_hidden_layers": 6, "share_router": False},
        {"moe_layers": [1, 5], "capacity_factor": None, "eval_capacity_factor": 2, **UNSHARED},
        {"moe_layers": "none", "pooling": "cls", "num_labels": 7, "norm_first": False},
    ],
)
def test_a_config_survives_the_disk(fields: dict[str, Any], tmp_path: Path) -> None:
    config = WideNetVisionConfig(**fields)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is WideNetVisionConfig
    for name, value in config.to_dict().items():
        if name not in ("_name_or_path", "transformers_version"):
            assert loaded.to_dict()[name] == value, name
    assert loaded.depth_plan() == config.depth_plan()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"norm_first": True, "pad_token_id": None, "vocab_size": 7, "embedding_size": 768},
        {"num_labels": 1, "problem_type": "regression", "tie_word_embeddings": False, "moe_layers": "none"},
    ],
)
def test_a_text_config_survives_the_disk(fields: dict[str, Any], tmp_path: Path) -> None:
    config = WideNetTextConfig(**fields)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is WideNetTextConfig
    for name, value in config.to_dict().items():
        if name not in ("_name_or_path", "transformers_version"):
            assert loaded.to_dict()[name] == value, name


# ---- what is refused ----

OUT_OF_RANGE = [
    # fields, what the line must name
    ({"hidden_size": 0}, ["hidden_size=0"]),
    ({"num_hidden_layers": 0}, ["num_hidden_layers=0"]),
    ({"intermediate_size": -1}, ["intermediate_size=-1"]),
    ({"num_attention_heads": 0}, ["num_attention_heads=0"]),
    ({"num_attention_heads": 5}, ["num_attention_heads=5", "hidden_size=768"]),
    ({"num_experts": 0}, ["num_experts=0"]),
    ({"num_experts_per_tok": 5}, ["num_experts_per_tok=5", "num_experts=4"]),
    ({"num_experts_per_tok": 0}, ["num_experts_per_tok=0"]),
    ({"expert_intermediate_size": 0}, ["expert_intermediate_size=0"]),
    ({"num_routing_groups": 5}, ["num_routing_groups=5", "num_hidden_layers=12"]),
    ({"num_sharing_groups": 5}, ["num_sharing_groups=5", "num_hidden_layers=12"]),
    ({"num_sharing_groups": 0, "moe_layers": "none"}, ["num_sharing_groups=0"]),
    ({"num_register_tokens": -1}, ["num_register_tokens=-1"]),
    ({"norm_after_pooling": True, "norm_first": False}, ["norm_after_pooling=True", "norm_first=True"]),
    ({"num_routing_groups": 0}, ["num_routing_groups=0"]),
    ({"num_routing_groups": -2}, ["num_routing_groups=-2"]),
    ({"num_routing_groups": 24}, ["num_routing_groups=24"]),
    ({"capacity_factor": 0}, ["capacity_factor=0", "None"]),
    ({"capacity_factor": -1.2}, ["capacity_factor=-1.2"]),
    ({"capacity_factor": float("nan")}, ["capacity_factor=nan"]),
    ({"capacity_factor": float("inf")}, ["capacity_factor=inf"]),
    ({"eval_capacity_factor": 0.0}, ["eval_capacity_factor=0.0"]),
    ({"moe_layers": [12]}, ["moe_layers", "12", "0 to 11"]),
    ({"moe_layers": [-1]}, ["moe_layers", "-1", "0 to 11"]),
    ({"moe_layers": "al"}, ["moe_layers", "'al'", "did you mean 'all'"]),
    ({"router_noise_std": -0.5}, ["router_noise_std=-0.5"]),
    ({"router_aux_loss_coef": -1}, ["router_aux_loss_coef=-1"]),
    ({"hidden_dropout_prob": 1.0}, ["hidden_dropout_prob=1.0"]),
    ({"hidden_dropout_prob": -0.1}, ["hidden_dropout_prob=-0.1"]),
    ({"attention_probs_dropout_prob": 1.5}, ["attention_probs_dropout_prob=1.5"]),
    ({"layer_norm_eps": 0.0}, ["layer_norm_eps=0.0"]),
    ({"initializer_range": -0.02}, ["initializer_range=-0.02"]),
    ({"hidden_act": "gelo"}, ["hidden_act", "'gelo'", "did you mean 'gelu'"]),
    ({"image_size": 0}, ["image_size=0"]),
    ({"patch_size": 0}, ["patch_size=0"]),
    ({"patch_size": 15}, ["patch_size=15", "image_size=224"]),
    ({"num_channels": 0}, ["num_channels=0"]),
    ({"num_labels": 0}, ["num_labels=0"]),
    ({"pooling": "max"}, ["pooling", "'max'", "cls, mean"]),
]


@pytest.mark.parametrize(("fields", "named"), OUT_OF_RANGE, ids=lambda value: str(value)[:40])
def test_a_value_out_of_range_is_named_in_one_line(fields: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(WideNetError) as caught:
        WideNetVisionConfig(**fields)
    line = str(caught.value)
    assert "\n" not in line
    for part in named:
        assert part in line


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"vocab_size": 0}, ["vocab_size=0"]),
        ({"embedding_size": -1}, ["embedding_size=-1"]),
        ({"max_position_embeddings": 0}, ["max_position_embeddings=0"]),
        ({"type_vocab_size": 0}, ["type_vocab_size=0"]),
        ({"num_labels": 0}, ["num_labels=0"]),
        ({"pad_token_id": -1}, ["pad_token_id=-1", "vocab_size=30000"]),
        ({"vocab_size": 5, "pad_token_id": 5}, ["pad_token_id=5", "vocab_size=5"]),
        ({"num_attention_heads": 5}, ["num_attention_heads=5", "hidden_size=768"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_text_value_out_of_range_is_named_in_one_line(fields: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(WideNetError) as caught:
        WideNetTextConfig(**fields)
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in named)


def test_a_dense_model_does_not_care_about_mixtures() -> None:
    # K > E would be refused, were there a mixture; 5 groups would not divide 12 blocks.
    config = WideNetConfig(moe_layers="none", num_experts=1, num_routing_groups=5)
    assert config.moe_blocks == [] and all(step.router is None for step in config.depth_plan())
    assert WideNetConfig(moe_layers=[]).moe_blocks == []


def test_a_value_changed_later_is_checked_when_the_model_is_built() -> None:
    config = WideNetConfig(num_hidden_layers=4)
    config.num_experts_per_tok = 9
    with pytest.raises(WideNetError, match="num_experts_per_tok=9"):
        config.depth_plan()
