"""Parameters and FLOPs: by hand, against really built models, and against PyTorch's own counter."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from widenet import WideNetForImageClassification, WideNetTextConfig, WideNetTextModel, WideNetVisionConfig
from widenet.models.counts import count, forward_flops

UNSHARED: dict[str, Any] = {"share_attention": False, "share_ffn": False}
KINDS: dict[str, dict[str, Any]] = {
    "widenet": {},
    "groups": {"num_routing_groups": 2, "num_experts_per_tok": 1},
    "vit": {**UNSHARED, "moe_layers": "none", "pooling": "cls", "use_representation": True},
    "vit-moe": {**UNSHARED, "moe_layers": [2, 3], "expert_intermediate_size": 40, "num_experts": 3},
    "albert": {"share_norm": True, "moe_layers": "none"},
    "mixed": {"moe_layers": [1], "pooling": "cls", "use_representation": True},
}


def make_config(**fields: Any) -> WideNetVisionConfig:
    settings: dict[str, Any] = {
        "image_size": 8,
        "patch_size": 2,
        "num_labels": 5,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "intermediate_size": 24,
        **fields,
    }
    return WideNetVisionConfig(**settings)


@torch.no_grad()
def counted_by_torch(config: WideNetVisionConfig, experts: str) -> int:
    """FLOPs of one image as FlopCounterMode sees them, two per multiply-add: mm, addmm, bmm, convolution.

    Eager attention, since the counter does not know the CPU's fused kernel.
    """
    # The counter's hooks ask a graph of every argument that says it needs a gradient.
    model = WideNetForImageClassification(config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    model.set_experts_implementation(experts)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, config.num_channels, config.image_size, config.image_size))
    return counter.get_total_flops()


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())
def test_parameters_are_those_of_a_built_model(fields: dict[str, Any]) -> None:
    config = make_config(**fields)
    model = WideNetForImageClassification(config)
    storages = {parameter.data_ptr(): parameter.numel() for parameter in model.parameters()}
    assert count(config).parameters == sum(storages.values())
    assert count(config).parameters == sum(value.numel() for value in model.state_dict().values())


def test_active_parameters_by_hand() -> None:
    # One expert: 16·24 + 24 + 24·16 + 16 = 808. A token visits 2 of 4, so 2·808 stay idle.
    total = count(make_config())
    assert total.parameters - total.active_parameters == 2 * 808
    # Shared experts are idle once, however many blocks use them; unshared ones in every block.
    unshared = count(make_config(**UNSHARED))
    assert unshared.parameters - unshared.active_parameters == 4 * 2 * 808
    # Two mixtures of 3 experts of 16·40 + 40 + 40·16 + 16 = 1,336, 2 visited.
    some = count(make_config(**KINDS["vit-moe"]))
    assert some.parameters - some.active_parameters == 2 * 1 * 1336
    # All of a dense model, and of a mixture whose every expert is visited, is active.
    for fields in (KINDS["vit"], {"num_experts_per_tok": 4}):
        everything = count(make_config(**fields))
        assert everything.parameters == everything.active_parameters


def test_flops_by_hand() -> None:
    # L = 16 tokens, D = 16, H = 24, E = 4, K = 2; multiply-adds:
    #   patches: 16 tokens · 3·2·2 · 16                               =   3,072
    #   a block: projections 16·4·16² = 16,384; scores and mixing 2·16·16·16 = 8,192
    #            router 16·16·4 = 1,024; one expert on all tokens 16·2·16·24 = 12,288
    #            with K = 2: 16,384 + 8,192 + 1,024 + 24,576           =  50,176, with 4: 74,752
    #   head:    16·5                                                  =      80
    counts = count(make_config())
    assert counts.active_flops == 2 * (3_072 + 4 * 50_176 + 80)
    assert counts.flops == 2 * (3_072 + 4 * 74_752 + 80)
    # Two groups: two routers' products fewer.
    assert count(make_config(num_routing_groups=2)).flops == counts.flops - 2 * 2 * 1_024


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())
def test_active_flops_are_those_that_run(fields: dict[str, Any]) -> None:
    # The sorted loop multiplies exactly K rows a token.
    config = make_config(**fields)
    assert count(config).active_flops == counted_by_torch(config, "widenet_sorted")


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())
def test_total_flops_are_those_of_every_expert_on_every_token(fields: dict[str, Any]) -> None:
    # The backend does that; its weighing of the E results is a product of the gates, L·E·D
    # multiply-adds per mixture, that the sum over chosen experts has no part in.
    config = make_config(**fields)
    L = config.num_patches + (config.pooling == "cls")
    weighing = 2 * L * config.num_experts * config.hidden_size * len(config.moe_blocks)
    assert count(config).flops == counted_by_torch(config, "widenet_every") - weighing


def test_a_widenet_costs_its_dense_twin_and_a_router() -> None:
    # K = 2 experts of H hidden units multiply as much as one feed-forward of 2·H.
    widenet = make_config(intermediate_size=24)
    twin = make_config(moe_layers="none", intermediate_size=48)
    routers = 2 * 4 * 16 * 16 * 4
    assert forward_flops(widenet, experts_per_token=2) == count(twin).flops + routers


# ---- text ----

TEXT_KINDS: dict[str, dict[str, Any]] = {
    "widenet": {},
    "groups": {"num_routing_groups": 2, "num_experts_per_tok": 1},
    "albert": {"share_norm": True, "moe_layers": "none"},
    "bert": {**UNSHARED, "moe_layers": "none", "embedding_size": 16},
}


def make_text_config(**fields: Any) -> WideNetTextConfig:
    settings: dict[str, Any] = {
        "vocab_size": 50,
        "embedding_size": 8,
        "max_position_embeddings": 20,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "intermediate_size": 24,
        **fields,
    }
    return WideNetTextConfig(**settings)


def test_text_flops_by_hand() -> None:
    # L = 20 tokens, D = 16, H = 24, E = 4, K = 2; multiply-adds:
    #   projection: 20·8·16                                           =   2,560
    #   a block: projections 20·4·16² = 20,480; scores and mixing 2·20·20·16 = 12,800
    #            router 20·16·4 = 1,280; one expert on all tokens 20·2·16·24 = 15,360
    #            with K = 2: 20,480 + 12,800 + 1,280 + 30,720          =  65,280, with 4: 96,000
    #   pooler: 16·16                                                 =     256
    counts = count(make_text_config())
    assert counts.tokens == 20
    assert counts.active_flops == 2 * (2_560 + 4 * 65_280 + 256)
    assert counts.flops == 2 * (2_560 + 4 * 96_000 + 256)
    # Half the text: half of everything per token, a quarter of scores and mixing, the same pooler.
    half = count(make_text_config(), tokens=10)
    assert (half.tokens, half.parameters) == (10, counts.parameters)
    assert half.active_flops == 2 * (1_280 + 4 * ((65_280 - 12_800) // 2 + 12_800 // 4) + 256)


@torch.no_grad()
@pytest.mark.parametrize("fields", TEXT_KINDS.values(), ids=TEXT_KINDS.keys())
def test_active_flops_of_text_are_those_that_run(fields: dict[str, Any]) -> None:
    config = make_text_config(**fields)
    model = WideNetTextModel(config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    for tokens in (20, 7):
        with FlopCounterMode(display=False) as counter:
            model(torch.ones(1, tokens, dtype=torch.long))
        assert count(config, tokens).active_flops == counter.get_total_flops()


@pytest.mark.parametrize("fields", TEXT_KINDS.values(), ids=TEXT_KINDS.keys())
def test_parameters_of_text_are_those_of_a_model_without_head(fields: dict[str, Any]) -> None:
    config = make_text_config(**fields)
    state = WideNetTextModel(config).state_dict()
    assert count(config).parameters == sum(value.numel() for value in state.values())
    idle = 2 * (16 * 24 + 24 + 24 * 16 + 16) if config.moe_blocks else 0
    if config.num_experts_per_tok == 1:
        idle = idle // 2 * 3
    assert count(config).parameters - count(config).active_parameters == idle
