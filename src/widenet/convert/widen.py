"""Widening: from a dense model, deep and unshared, to a WideNet that starts from its weights.

Axes: B blocks, g blocks of a group, E experts, K experts a token, D hidden size, H hidden size of a feed-forward.
"""

import warnings
from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path
from shutil import copyfile, rmtree
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import ViTImageProcessor

from widenet.config import Step, WideNetVisionConfig
from widenet.convert.dense import load
from widenet.convert.folder import load_processor
from widenet.convert.sources import find_source, from_dense, read_source
from widenet.errors import WideNetError, unknown
from widenet.models.card import save_card, widened_card
from widenet.models.presets import build_config, own_fields
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.models.text import WideNetTextModel
from widenet.nn.encoder import Encoder, Norms
from widenet.nn.routing import Router

# A tenth of what tokens of unit variance need for logits of unit variance: below the training noise, so that
# the first batches are spread evenly.
ROUTER_SCALE = 0.1
SAMPLES = 2048  # synthetic tokens of each block that a router learns to tell apart
# Fields that the caller may set, besides those that are arguments of their own.
FREE_FIELDS = (
    "share_router",
    "num_routing_groups",
    "capacity_factor",
    "eval_capacity_factor",
    "router_noise_std",
    "router_aux_loss_coef",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "preprocessor_config.json",
)


def widen(
    model_or_path: nn.Module | str | Path,
    num_experts: int = 4,
    *,
    num_experts_per_tok: int = 2,
    experts: str | int = "spread",
    attention: str | int = "middle",
    router: str = "auto",
    group_size: int | None = None,
    noise: float = 0.01,
    normalize_gates: bool = True,
    seed: int = 0,
    task: str | None = None,
    allow_pickle: bool = False,
    **fields: Any,
) -> WideNetPreTrainedModel:
    """Return a WideNet made of a dense model's weights: shared attention, E shared experts, a LayerNorm per block.

    Embeddings, heads and every block's LayerNorms are the source's. The attentions of the blocks become one, and
    their feed-forwards become E experts. Of a source that shares already (ALBERT), with ``noise=0``, the result
    is the same function; of another one it is not, and it needs training to be useful.

    Averaging takes each weight's mean. The hidden units and heads of two blocks have no common order, so that
    the mean mixes unrelated ones; they are not aligned first.

    Args:
        model_or_path: as for :func:`from_dense`.
        num_experts: E.
        num_experts_per_tok: K.
        experts: which feed-forwards the experts are made of. "spread": of different blocks, evenly spaced.
            "blocks": the same, but with fewer experts than blocks each is the average of a run of neighbouring
            blocks. "average", "first", "middle", "last" or a block's index within its group: copies of that one.
        attention: which attention is shared: "average", "first", "middle", "last" or a block's index within its
            group.
        router: "blocks": tokens in a block go to the expert that was made of its feed-forward, or of its
            neighbour's, with experts="spread" or "blocks". All tokens of a block so go to the same experts:
            capacity and balance loss, which would undo that, are off unless ``fields`` say otherwise. "random":
            close to even. "auto": "blocks" where the experts are made of different feed-forwards and the blocks
            have different LayerNorms to be told apart by, else "random".
        group_size: g; each g consecutive blocks have an attention, a router and experts of their own. None
            is one group of all blocks, the smallest model; 1 shares nothing.
        noise: standard deviation of what is added to each expert's weight matrices, relative to their own. It
            sets experts apart that are copies.
        normalize_gates: divide a token's K gates by their sum. Without, the gates of K of E experts sum to less
            than 1, and the mixture starts as a damped feed-forward.
        seed: of the noise, the routers and any new head. The caller's random numbers are left alone.
        task: as for :func:`from_dense`.
        allow_pickle: as for :func:`from_dense`.
        **fields: other config fields of a mixture or of dropout, for example ``capacity_factor=None``.

    Raises:
        WideNetError: as :func:`from_dense`; or an argument is out of range or does not exist.
    """
    check_free_fields(fields)
    if not 0 <= noise < float("inf"):
        raise WideNetError(f"noise={noise} must be at least 0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dense = from_dense(model_or_path, task, allow_pickle=allow_pickle)
        for name, parameter in dense.named_parameters():
            if not parameter.isfinite().all():
                raise WideNetError(f"the source has weights that are no finite numbers: {name}")
        old = dense.config
        B = old.num_hidden_layers
        g = B if group_size is None else group_size
        if g < 1 or B % g:
            raise WideNetError(f"group_size={g} must divide the source's {B} blocks")
        kept = {name: getattr(old, name) for name in own_fields(type(old))}
        mixture: dict[str, Any] = {
            "share_attention": True,
            "share_ffn": True,
            "share_norm": False,
            "share_router": None,
            "num_sharing_groups": B // g,
            "num_routing_groups": None,
            "moe_layers": "all",
            "num_experts": num_experts,
            "num_experts_per_tok": num_experts_per_tok,
            "expert_intermediate_size": old.intermediate_size,
            "router_noise_std": None,
            "normalize_gates": normalize_gates,
        }
        router = _which_router(router, _encoder(dense), g, experts, num_experts, fields.get("num_routing_groups"))
        if router == "blocks":
            mixture |= {"capacity_factor": None, "router_aux_loss_coef": 0.0}
        labels = {name: getattr(old, name) for name in ("id2label", "label2id") if getattr(old, name)}
        config = build_config(type(old), {**kept, **labels, **mixture, **fields})
        wide = type(dense)(config)
        if isinstance(wide, WideNetTextModel) and isinstance(dense, WideNetTextModel) and dense.pooler is None:
            wide.pooler = None
        load(wide, dense.state_dict(), like=dense, partial=True)
        _fill(_encoder(wide), _encoder(dense), g, experts, attention, noise)
        _fill_routers(_encoder(wide), g, router)
    return wide


def widen_folder(source: str | Path, output: Path, *args: Any, **options: Any) -> dict[str, Any]:
    """Widen the model in a folder, or of a public name, into a folder that is ready to be fine-tuned.

    The folder also gets the source's tokenizer or image processor, and a model card.

    Args:
        source: as for :func:`from_dense`, but not a model.
        output: a folder that does not exist, or is empty.
        *args, **options: of :func:`widen`.

    Returns:
        Parameters of the source and of the result, in all and in the encoder.

    Raises:
        WideNetError: as :func:`widen`; or the output folder is not empty or cannot be written.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise WideNetError(f"{output} exists already; choose another --output")
    folder = find_source(source)
    model = read_source(folder, options.get("task"), options.get("allow_pickle", False))
    dense, wide = from_dense(model, options.get("task")), widen(model, *args, **options)
    was_there = output.is_dir()
    try:
        wide.save_pretrained(output)
        for name in PROCESSOR_FILES:
            if (folder / name).is_file():
                copyfile(folder / name, output / name)
        if not (output / "preprocessor_config.json").exists() and isinstance(wide.config, WideNetVisionConfig):
            source_processor(folder, model, wide.config).save_pretrained(output)
        arguments = signature(widen).bind(source, *args, **options)
        arguments.apply_defaults()
        files = [name for name in PROCESSOR_FILES if (output / name).is_file()]
        save_card(widened_card(wide, dense, folder, arguments.arguments, files), output)
    except BaseException as error:  # Ctrl-C, too
        rmtree(output, ignore_errors=True)
        if was_there:
            output.mkdir(exist_ok=True)
        if isinstance(error, OSError | SafetensorError):
            raise WideNetError(f"{output} cannot be written: {getattr(error, 'strerror', None) or error}") from error
        raise
    counts = {}
    for name, each in (("source", dense), ("widened", wide)):
        counts[name] = {"parameters": _count(each), "encoder": _count(_encoder(each))}
    return counts


def check_free_fields(fields: Iterable[str]) -> None:
    """Raise :class:`WideNetError` for config fields that follow from the source, or do not exist."""
    for name in fields:
        if name not in FREE_FIELDS:
            raise unknown("argument of widen", name, FREE_FIELDS)


def source_processor(folder: Path, model: nn.Module, config: WideNetVisionConfig) -> ViTImageProcessor:
    """Return the image processor beside a source; or one of its size, with the colours that timm published."""
    if (folder / "preprocessor_config.json").is_file():
        return load_processor(folder)
    published = getattr(model, "pretrained_cfg", None) or {}
    colours: dict[str, Any] = {f"image_{name}": list(published[name]) for name in ("mean", "std") if name in published}
    return ViTImageProcessor(size={"height": config.image_size, "width": config.image_size}, **colours)


@torch.no_grad()
def _fill(wide: Encoder, dense: Encoder, g: int, experts: str | int, attention: str | int, noise: float) -> None:
    """Give a widened encoder the weights of a dense one; both have the same blocks."""
    for here, there in zip(wide.plan, dense.plan, strict=True):
        wide.norms[here.norms].load_state_dict(dense.norms[there.norms].state_dict())
    E = wide.config.num_experts
    for group, start in enumerate(range(0, len(wide.plan), g)):
        steps = dense.plan[start : start + g]
        attentions = [dense.attentions[step.attention] for step in steps]
        feed_forwards = [dense.feed_forwards[step.dense] for step in steps if step.dense is not None]
        wide.attentions[group].load_state_dict(_average(_pick(attentions, attention, "attention")))
        if experts == "blocks":
            sources = [_average(_run(feed_forwards, e, E)) for e in range(E)]
        elif experts == "spread":
            runs = [_run(feed_forwards, e, E) for e in range(E)]
            sources = [_average([run[len(run) // 2]]) for run in runs]
        else:
            sources = [_average(_pick(feed_forwards, experts, "experts", "spread", "blocks"))] * E
        _fill_experts(wide.experts[group], sources, noise)


def _which_router(
    choice: str, dense: Encoder, g: int, experts: str | int, num_experts: int, routing_groups: int | None
) -> str:
    """Return "blocks" or "random": as chosen, or for "auto" what the source's blocks allow."""
    if choice not in ("auto", "blocks", "random"):
        raise unknown("router", choice, ["auto", "blocks", "random"])
    apart, B = experts in ("blocks", "spread"), len(dense.plan)
    reused = routing_groups not in (None, B)
    if choice == "blocks" and not apart:
        raise WideNetError(f"router=blocks needs experts=spread or blocks, not {experts}: its experts are all alike")
    if choice == "blocks" and reused:
        reuse = f"num_routing_groups={routing_groups} would reuse a choice for several"
        raise WideNetError(f"router=blocks chooses experts in each of {B} blocks, and {reuse}")
    if choice != "auto":
        return choice
    groups = [dense.plan[start : start + g] for start in range(0, B, g)]
    differ = any(len({step.dense for step in group}) > 1 and _norms_differ(dense, group) for group in groups)
    return "blocks" if apart and differ and not reused and num_experts > 1 else "random"


def _norms_differ(dense: Encoder, group: Sequence[Step]) -> bool:
    """Whether the blocks of a group can be told apart: not where norms are shared, or untrained."""
    first, *others = ([*dense.norms[step.norms].parameters()] for step in group)
    return any(not torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@torch.no_grad()
def _fill_routers(wide: Encoder, g: int, choice: str) -> None:
    """Set the routers of a widened encoder whose norms are set."""
    routers = cast(Sequence[Router], wide.routers)
    if choice == "random":
        for router in routers:
            nn.init.normal_(router.weight, std=ROUTER_SCALE * wide.config.hidden_size**-0.5)
        return
    for index, router in enumerate(routers):
        groups = {block // g for block, step in enumerate(wide.plan) if step.router == index}
        blocks = [block for block in range(len(wide.plan)) if block // g in groups]  # whose experts it may choose
        router.weight.copy_(_telling_apart(wide, blocks, g))


def _telling_apart(wide: Encoder, blocks: list[int], g: int) -> Tensor:
    """Return router weights [E, D] that send the tokens of some blocks to the experts made of these blocks.

    What a router sees is the output of a LayerNorm of the block's own, so its scale and shift tell blocks apart;
    a linear classifier learns to, on tokens drawn as scale · (standard normal) + shift.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    E, D = wide.config.num_experts, wide.config.hidden_size
    # The first block of the run that an expert was made of stands for the expert; experts may share one.
    first = [e * g // E for e in range(E)]
    tokens, labels = [], []
    for block in blocks:
        norms = cast(Norms, wide.norms[wide.plan[block].norms])
        norm = norms.feed_forward if wide.config.norm_first else norms.attention
        tokens.append(torch.randn(SAMPLES, D) * norm.weight.cpu() + norm.bias.cpu())
        labels += [max(start for start in first if start <= block % g)] * SAMPLES
    classes = sorted(set(labels))
    weights = torch.zeros(len(classes), D)
    if len(classes) > 1:
        # Without an intercept, since routers have none. Weak regularisation would make the gates all but hard.
        classifier = LogisticRegression(C=0.01, fit_intercept=False, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged is good enough to start from
            found = torch.from_numpy(classifier.fit(torch.cat(tokens).double().numpy(), labels).coef_)
        weights = torch.cat([-found, found]) / 2 if len(classes) == 2 else found
    return torch.stack([weights[classes.index(start)] if start in classes else weights.mean(0) for start in first])


def _fill_experts(experts: Any, sources: list[dict[str, Tensor]], noise: float) -> None:
    """Set the experts' stacks of weights [E, …] from E feed-forwards."""
    for name in ("up_proj", "down_proj"):
        weights = torch.stack([source[f"{name}.weight"] for source in sources])  # [E, H, D] or [E, D, H]
        spread = noise * weights.flatten(1).std(1).view(-1, 1, 1)
        getattr(experts, name).copy_(weights + spread * torch.randn(weights.shape).to(weights))
        getattr(experts, f"{name}_bias").copy_(torch.stack([source[f"{name}.bias"] for source in sources]))


def _pick(modules: Sequence[nn.Module], choice: str | int, argument: str, *others: str) -> Sequence[nn.Module]:
    """Return the modules of a group that a choice means, to be averaged."""
    middle = (len(modules) - 1) // 2  # of two, the first
    named = {
        "average": modules,
        "first": modules[:1],
        "middle": modules[middle : middle + 1],
        "last": modules[-1:],
    }
    if isinstance(choice, str):
        if choice not in named:
            raise unknown(argument, choice, [*others, *named, f"an index from 0 to {len(modules) - 1}"])
        return named[choice]
    if not 0 <= choice < len(modules):
        raise WideNetError(f"{argument}={choice} is no block of a group; its blocks are 0 to {len(modules) - 1}")
    return [modules[choice]]


def _run(modules: Sequence[nn.Module], index: int, count: int) -> Sequence[nn.Module]:
    """Return the ``index``-th of ``count`` runs that the modules of a group fall into, at least one of them."""
    start = index * len(modules) // count
    return modules[start : max(start + 1, (index + 1) * len(modules) // count)]


def _average(modules: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return the mean of every parameter; of a module that is there several times, exactly its own."""
    states = [module.state_dict() for module in dict.fromkeys(modules)]
    return {
        key: torch.stack([state[key] for state in states]).mean(0) if len(states) > 1 else states[0][key]
        for key in states[0]
    }


def _encoder(model: WideNetPreTrainedModel) -> Any:
    base: Any = model.base_model
    return base.encoder


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
