"""Widening: what is kept, what each initialisation is made of, sizes by hand, and that the result trains."""

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AlbertForSequenceClassification, AutoTokenizer, PreTrainedModel, ViTImageProcessor

from widenet import (
    WideNetError,
    WideNetForSequenceClassification,
    create_config,
    create_model,
    from_dense,
    list_models,
    widen,
)
from widenet.convert.folder import load_model, load_processor
from widenet.convert.widen import widen_folder
from widenet.data.text.tokenizer import train_wordpiece
from widenet.tasks.distillation import WidenSection
from widenet_cli.convert import widen as widen_command

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "initializer_range": 0.3,
}
TASKS = {
    "bert-tiny": "text-classification",
    "albert-tiny": "text-classification",
    "vit-digits": "image-classification",
}
STACKS = ("up_proj", "up_proj_bias", "down_proj", "down_proj_bias")


def make(name: str, task: str | None = None, **fields: Any) -> Any:
    """A dense model with weights as large as trained ones, the norms' and biases' too."""
    texts = {} if name.startswith("vit") else {"vocab_size": 50, "embedding_size": 8}
    torch.manual_seed(0)
    model = create_model(name, task=task or TASKS[name], **{**SHAPE, **texts, **fields}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(3, 3, 8, 8, generator=generator)}
    mask = (torch.arange(11) < torch.tensor([11, 4, 1]).unsqueeze(1)).long()
    return {"input_ids": torch.randint(1, 50, (3, 11), generator=generator) * mask, "attention_mask": mask}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(**inputs(model)).logits


def stack(dense: Any, key: str, blocks: list[int]) -> Tensor:
    """The mean of one weight of some blocks' feed-forwards."""
    name = key.replace("_bias", ".bias") if key.endswith("bias") else f"{key}.weight"
    return torch.stack([dense.model.encoder.feed_forwards[b].get_parameter(name) for b in blocks]).mean(0)


# ---- what is kept ----


@pytest.mark.parametrize("group_size", [None, 2, 1])
@pytest.mark.parametrize("name", TASKS)
def test_norms_embeddings_and_head_are_the_sources(name: str, group_size: int | None) -> None:
    dense = make(name)
    wide = widen(dense, group_size=group_size)
    assert type(wide) is type(dense) and not wide.training
    config, groups = wide.config, 4 // (group_size or 4)
    assert (config.num_experts, config.num_experts_per_tok, config.num_sharing_groups) == (4, 2, groups)
    assert config.normalize_gates and not config.share_norm and config.moe_layers == "all"
    encoder, source = wide.model.encoder, dense.model.encoder
    assert (len(encoder.norms), len(encoder.feed_forwards)) == (4, 0)
    assert len(encoder.attentions) == len(encoder.experts) == len(encoder.routers) == groups
    for norms, step in zip(encoder.norms, source.plan, strict=True):
        for key, value in source.norms[step.norms].state_dict().items():
            assert torch.equal(norms.state_dict()[key], value)
    state = wide.state_dict()
    outside = [key for key in dense.state_dict() if "encoder." not in key or "final_norm" in key]
    assert outside == [key for key in state if "encoder." not in key or "final_norm" in key]
    assert all(torch.equal(state[key], dense.state_dict()[key]) for key in outside)
    wide(**inputs(wide), output_routing=True)


def test_sizes_by_hand() -> None:
    D, H, B, E = 16, 24, 4, 3
    attention, feed_forward, norms = 4 * (D * D + D), 2 * D * H + H + D, 2 * 2 * D
    dense = make("bert-tiny")
    assert sum(p.numel() for p in dense.model.encoder.parameters()) == B * (attention + feed_forward + norms)
    for groups in (1, 2, 4):
        wide: Any = widen(dense, E, group_size=B // groups)
        expected = groups * (attention + E * feed_forward + E * D) + B * norms
        assert sum(p.numel() for p in wide.model.encoder.parameters()) == expected


def test_the_source_and_the_callers_random_numbers_are_left_alone() -> None:
    dense = make("bert-tiny")
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    widen(dense, noise=0.5)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())


def test_mode_and_data_type_come_along() -> None:
    wide = widen(make("vit-digits").to(torch.float64).train())
    assert wide.training and {p.dtype for p in wide.parameters()} == {torch.float64}


# ---- routers ----


@torch.no_grad()
@pytest.mark.parametrize("share_router", [None, False])
@pytest.mark.parametrize("name", ["bert-tiny", "vit-digits"])  # post-LN and pre-LN
@pytest.mark.parametrize(
    ("E", "group_size", "expected"),
    [
        (4, None, [{0}, {1}, {2}, {3}]),
        (2, None, [{0}, {0}, {1}, {1}]),
        (8, None, [{0, 1}, {2, 3}, {4, 5}, {6, 7}]),
        (2, 2, [{0}, {1}, {0}, {1}]),
        (4, 1, [{0, 1, 2, 3}] * 4),
    ],
)
def test_tokens_go_to_the_expert_of_their_block(
    name: str, E: int, group_size: int | None, expected: list[set[int]], share_router: bool | None
) -> None:
    dense = make(name)
    for norms in dense.model.encoder.norms:  # as after training: blocks differ in more than noise
        for norm in (norms.attention, norms.feed_forward):
            norm.bias.normal_(std=4)
    how: dict[str, Any] = {"group_size": group_size, "experts": "spread", "router": "blocks"}
    wide = widen(dense, E, num_experts_per_tok=1, **how, share_router=share_router)
    assert wide.config.capacity_factor is None and wide.config.router_aux_loss_coef == 0
    records = wide(**inputs(wide), output_routing=True).routing
    mask = inputs(wide).get("attention_mask")
    tokens: Any = ... if mask is None else mask.reshape(-1).bool()
    for record, experts in zip(records, expected, strict=True):
        right = torch.tensor([int(expert) in experts for expert in record.experts[tokens].flatten()])
        assert right.float().mean() > 0.9


def test_routers_by_block_leave_the_last_word_to_the_caller() -> None:
    config = widen(make("bert-tiny"), router="blocks", capacity_factor=2.0, router_aux_loss_coef=0.1).config
    assert (config.capacity_factor, config.router_aux_loss_coef) == (2.0, 0.1)


@pytest.mark.parametrize(
    ("name", "options", "by_block"),
    [
        ("bert-tiny", {}, True),
        ("bert-tiny", {"experts": "blocks", "group_size": 2}, True),
        ("bert-tiny", {"router": "random"}, False),
        ("bert-tiny", {"experts": "first"}, False),
        ("bert-tiny", {"num_experts": 1, "num_experts_per_tok": 1}, False),
        ("bert-tiny", {"group_size": 1}, False),
        ("bert-tiny", {"num_routing_groups": 2}, False),  # two blocks share a choice
        ("albert-tiny", {}, False),  # one feed-forward for all blocks
    ],
    ids=str,
)
def test_routers_are_by_block_where_blocks_can_be_told_apart(
    name: str, options: dict[str, Any], by_block: bool
) -> None:
    dense = make(name)
    config = widen(dense, **options).config
    assert (config.capacity_factor is None, config.router_aux_loss_coef == 0) == (by_block, by_block)
    for norms in dense.model.encoder.norms:
        norms.load_state_dict(dense.model.encoder.norms[0].state_dict())
    assert widen(dense, **options).config.capacity_factor is not None


# ---- the same function ----


@pytest.mark.parametrize("experts", ["blocks", "spread", "average", "first", 2])
@pytest.mark.parametrize("E", [1, 2, 4, 5])
def test_albert_widened_is_the_same_function(experts: str | int, E: int) -> None:
    # One feed-forward, so that all experts are copies of it; K gates that sum to 1 add up to one copy.
    dense = make("albert-tiny")
    wide = widen(dense, E, num_experts_per_tok=min(E, 2), experts=experts, noise=0)
    torch.testing.assert_close(logits(wide), logits(dense), rtol=0, atol=1e-5)
    if E > 2:  # gates of about 1/E each: a damped feed-forward
        damped = widen(dense, E, experts=experts, noise=0, normalize_gates=False)
        assert (logits(damped) - logits(dense)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2])
def test_albert_of_transformers_widened_is_the_same_function(groups: int) -> None:
    sizes = {"vocab_size": 50, "embedding_size": 8, "max_position_embeddings": 16, "num_hidden_groups": groups}
    torch.manual_seed(0)
    albert = AlbertForSequenceClassification(AlbertForSequenceClassification.config_class(**SHAPE, **sizes)).eval()
    wide = widen(albert, noise=0, group_size=4 // groups)
    torch.testing.assert_close(logits(wide), logits(albert), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["bert-tiny", "vit-digits"])
def test_a_group_per_block_is_the_same_function(name: str) -> None:
    dense = make(name)
    wide = widen(dense, 3, group_size=1, noise=0)
    torch.testing.assert_close(logits(wide), logits(dense), rtol=0, atol=1e-5)
    assert (logits(widen(dense, 3, group_size=2, noise=0)) - logits(dense)).abs().max() > 1e-2


# ---- the initialisations ----


@pytest.mark.parametrize(
    ("experts", "E", "group_size", "runs"),
    [
        # per group, the blocks that each expert is the average of
        ("blocks", 4, None, [[[0], [1], [2], [3]]]),
        ("blocks", 2, None, [[[0, 1], [2, 3]]]),
        ("blocks", 3, None, [[[0], [1], [2, 3]]]),
        ("blocks", 6, None, [[[0], [0], [1], [2], [2], [3]]]),
        ("blocks", 2, 2, [[[0], [1]], [[2], [3]]]),
        ("spread", 2, None, [[[1], [3]]]),
        ("spread", 8, 2, [[[0]] * 4 + [[1]] * 4, [[2]] * 4 + [[3]] * 4]),
        ("average", 2, None, [[[0, 1, 2, 3]] * 2]),
        ("average", 2, 2, [[[0, 1]] * 2, [[2, 3]] * 2]),
        ("first", 2, 2, [[[0]] * 2, [[2]] * 2]),
        ("middle", 2, None, [[[1]] * 2]),
        ("last", 2, 2, [[[1]] * 2, [[3]] * 2]),
        (2, 2, None, [[[2]] * 2]),
    ],
    ids=str,
)
def test_what_experts_are_made_of(
    experts: str | int, E: int, group_size: int | None, runs: list[list[list[int]]]
) -> None:
    dense = make("bert-tiny")
    wide: Any = widen(dense, E, experts=experts, group_size=group_size, noise=0)
    for group, expected in zip(wide.model.encoder.experts, runs, strict=True):
        for key in STACKS:
            for expert, blocks in enumerate(expected):
                torch.testing.assert_close(getattr(group, key)[expert], stack(dense, key, blocks), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("attention", "blocks"),
    [
        ("average", [[0, 1], [2, 3]]),
        ("first", [[0], [2]]),
        ("middle", [[0], [2]]),
        ("last", [[1], [3]]),
        (1, [[1], [3]]),
        ("middle", [[1]]),
    ],
    ids=str,
)
def test_what_attention_is_made_of(attention: str | int, blocks: list[list[int]]) -> None:
    dense = make("vit-digits")
    wide: Any = widen(dense, attention=attention, group_size=4 // len(blocks))
    for module, sources in zip(wide.model.encoder.attentions, blocks, strict=True):
        for key, value in module.state_dict().items():
            each = [dense.model.encoder.attentions[b].state_dict()[key] for b in sources]
            torch.testing.assert_close(value, torch.stack(each).mean(0), rtol=0, atol=1e-7)


def test_noise_sets_copies_apart_by_its_measure() -> None:
    dense = make("bert-tiny", hidden_size=64, intermediate_size=128)
    wide: Any = widen(dense, experts="first", noise=0.05)
    experts = wide.model.encoder.experts[0]
    for key in ("up_proj", "down_proj"):
        source = stack(dense, key, [0])
        added = getattr(experts, key) - source
        # 8192 draws: their standard deviation is within 5 % of the true one
        for expert in added:
            assert float((expert.std() / source.std()).detach()) == pytest.approx(0.05, rel=0.05)
        assert not torch.equal(added[0], added[1])
        assert torch.equal(getattr(experts, f"{key}_bias")[1], stack(dense, f"{key}_bias", [0]))


def test_the_seed_decides() -> None:
    dense = make("bert-tiny", task="features")
    options: dict[str, Any] = {"task": "text-classification", "noise": 0.1}  # with a new head
    first, again, other = (widen(dense, seed=seed, **options).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    differ = {key for key, value in first.items() if not torch.equal(value, other[key])}
    encoder = {f"model.encoder.experts.0.{name}_proj" for name in ("up", "down")} | {"model.encoder.routers.0.weight"}
    assert differ == encoder | {"classifier.weight"}


@torch.no_grad()
@pytest.mark.parametrize("name", TASKS)
def test_random_routers_start_undecided(name: str) -> None:
    wide = widen(make(name), router="random")
    for record in wide(**inputs(wide), output_routing=True).routing:
        assert record.probabilities.min() > 0.1  # of four experts


def test_defaults_are_the_same_in_python_in_a_recipe_and_on_the_command_line() -> None:
    function = {name: each.default for name, each in signature(widen).parameters.items()}
    section = WidenSection().model_dump()
    renamed = {"experts": "num_experts", "top_k": "num_experts_per_tok", "init": "experts"}
    command = {renamed.get(name, name): each.default for name, each in signature(widen_command).parameters.items()}
    assert section == {name: function[name] for name in section}
    assert section == {name: command[name] for name in section}
    assert command["seed"] == function["seed"]


def test_other_fields_of_a_mixture() -> None:
    wide = widen(make("bert-tiny"), 8, num_experts_per_tok=3, share_router=False, capacity_factor=None)
    config: Any = wide.config
    assert (config.num_experts_per_tok, config.capacity_factor, config.router_noise_std) == (3, None, 1 / 8)
    assert len(wide.model.encoder.routers) == 4  # type: ignore[union-attr]


# ---- it trains, and it is saved ----


@pytest.mark.parametrize("group_size", [None, 2])
@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_training_reaches_every_parameter(name: str, group_size: int | None) -> None:
    wide = widen(make(name), group_size=group_size, num_experts_per_tok=2).train()
    wide(**inputs(wide), labels=torch.tensor([0, 1, 1])).loss.backward()
    lacking = [key for key, p in wide.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert lacking == []


@pytest.mark.parametrize("name", TASKS)
def test_a_widened_model_survives_the_disk(name: str, tmp_path: Path) -> None:
    wide = widen(make(name), group_size=2)
    wide.save_pretrained(tmp_path)
    again = load_model(tmp_path, type(wide))
    assert again.config.num_sharing_groups == 2
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in wide.state_dict().items())
    torch.testing.assert_close(logits(again), logits(wide))


def test_a_folder_of_text_is_ready_to_be_fine_tuned(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["a few words of text"] * 2, 50)
    dense = make("bert-tiny", task="features", vocab_size=50)
    for part in (dense, tokenizer):
        part.save_pretrained(tmp_path / "dense")
    counts = widen_folder(tmp_path / "dense", tmp_path / "wide", 2, task="text-classification")
    assert AutoTokenizer.from_pretrained(tmp_path / "wide").get_vocab() == tokenizer.get_vocab()
    wide = load_model(tmp_path / "wide", WideNetForSequenceClassification)
    assert counts["widened"]["parameters"] == sum(p.numel() for p in wide.parameters())
    assert counts["source"]["encoder"] == sum(p.numel() for p in dense.encoder.parameters())


def test_a_folder_of_images_has_a_processor(tmp_path: Path) -> None:
    make("vit-digits").save_pretrained(tmp_path / "dense")
    widen_folder(tmp_path / "dense", tmp_path / "wide")
    assert load_processor(tmp_path / "wide").size["height"] == 8
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path / "dense")
    widen_folder(str(tmp_path / "dense"), tmp_path / "wide2")
    assert load_processor(tmp_path / "wide2").image_mean == (0.1, 0.2, 0.3)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_experts": 0}, "num_experts=0"),
        ({"num_experts": -4}, "num_experts=-4"),
        ({"num_experts": 1}, "num_experts_per_tok=2"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok=5"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok=0"),
        ({"group_size": 3}, "group_size=3"),
        ({"group_size": 0}, "group_size=0"),
        ({"group_size": 8}, "group_size=8"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"experts": "block"}, "did you mean 'blocks'"),
        ({"router": "block"}, "unknown router 'block'; did you mean 'blocks'"),
        ({"router": "blocks", "num_routing_groups": 2}, "num_routing_groups=2"),
        ({"router": "blocks", "experts": "first"}, "router=blocks needs experts=spread or blocks, not first"),
        ({"experts": 4}, "0 to 3"),
        ({"attention": "blocks"}, "attention 'blocks'"),
        ({"attention": -1}, "0 to 3"),
        ({"attention": 2, "group_size": 2}, "0 to 1"),
        ({"capacity": 2}, "capacity_factor"),
        ({"capacity_factor": 0}, "capacity_factor=0"),
        ({"hidden_size": 8}, "hidden_size"),
        ({"task": "image-classification"}, "text-classification"),
    ],
    ids=str,
)
def test_an_argument_that_does_not_fit(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(WideNetError) as caught:
        widen(make("bert-tiny"), **arguments)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_widened(tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match="mixtures"):
        widen(create_model("widenet-digits"))
    with pytest.raises(WideNetError, match="does not exist"):
        widen(tmp_path / "none")
    make("vit-digits").save_pretrained(tmp_path)
    with pytest.raises(WideNetError, match="exists already"):
        widen_folder(tmp_path, tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(WideNetError, match="exists already"):
        widen_folder(tmp_path, tmp_path / "file")
    with pytest.raises(WideNetError, match="cannot be written"):
        widen_folder(tmp_path, tmp_path / "file/folder")


SMALL = [name for name in list_models() if name.endswith(("-tiny", "-digits"))]


@pytest.mark.parametrize("name", [name for name in SMALL if not create_config(name).moe_blocks])
def test_every_small_dense_preset_can_be_widened(name: str) -> None:
    dense = create_model(name)
    assert (
        len(widen(dense)(**inputs(dense), output_routing=True).routing) == from_dense(dense).config.num_hidden_layers
    )
