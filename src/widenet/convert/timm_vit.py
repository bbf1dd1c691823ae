"""timm's vision transformers as models of ours, and ours as theirs: plain ViTs with pre-LN blocks, read from [CLS] or
the mean of the patches.

What a classifier does not read (timm's registers, a distillation token, a [CLS] beside mean pooling) is a
register of ours. LayerScale is multiplied into the projection before it. Dropout other than that of the
projections and of attention, and stochastic depth, are how a source was trained, and stay behind.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import torch
from timm.layers.attention import Attention
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from widenet.config import WideNetVisionConfig
from widenet.convert.dense import load
from widenet.errors import WideNetError
from widenet.models.presets import build_config
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.models.vision import WideNetForImageClassification, WideNetVisionModel, WideNetVisionPreTrainedModel

# transformers' names of the activations.
_ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu"}
# And timm's names of ours; gelu_new is the tanh form, too.
_THEIR_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


def from_timm(model: nn.Module, with_head: bool = True) -> WideNetVisionPreTrainedModel:
    """Return our model of the same function as timm's, its weights copied.

    Args:
        model: a ``VisionTransformer`` of timm, or a distilled one without its head.
        with_head: keep the classifier, where there is one.

    Raises:
        WideNetError: it is another architecture, or a setting of it has no counterpart here.
    """
    if not isinstance(model, VisionTransformer) or type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise WideNetError(f"{type(model).__name__} of timm cannot be read; timm's VisionTransformer (vit_*) can")
    _check(model)
    source: Any = model
    with_head = with_head and model.num_classes > 0
    distilled = isinstance(model, VisionTransformerDistilled)
    if distilled and with_head:
        raise WideNetError(
            "VisionTransformerDistilled averages two classifiers, ours has one; read it without: task='features'"
        )
    pooling = "cls" if model.global_pool == "token" else "mean"
    tokens = [source.cls_token, source.reg_token, source.dist_token if distilled else None]
    prefix = [token.data for token in tokens if token is not None]
    block: Any = source.blocks[0]
    fields = {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": _activation(block.mlp.act),
        "layer_norm_eps": block.norm1.eps,
        "hidden_dropout_prob": block.attn.proj_drop.p,
        "attention_probs_dropout_prob": block.attn.attn_drop.p,
        "image_size": source.patch_embed.img_size[0],
        "patch_size": source.patch_embed.patch_size[0],
        "num_channels": model.in_chans,
        "pooling": pooling,
        "num_register_tokens": sum(token.shape[1] for token in prefix) - (pooling == "cls"),
        "norm_after_pooling": _has_fc_norm(model),
        "share_attention": False,
        "share_ffn": False,
        "moe_layers": "none",
    }
    if with_head:
        fields["num_labels"] = model.num_classes
    config = build_config(WideNetVisionConfig, fields)
    ours: WideNetVisionPreTrainedModel = (WideNetForImageClassification if with_head else WideNetVisionModel)(config)
    state = _embeddings(source, prefix, pooling)
    for index, block in enumerate(source.blocks):
        state |= _block(block, index)
    state |= _linear(source.fc_norm, "norm") if _has_fc_norm(model) else _linear(source.norm, "encoder.final_norm")
    if with_head:
        state = {f"model.{key}": value for key, value in state.items()} | _linear(source.head, "classifier")
    load(ours, state, like=model)
    return ours


def to_timm(model: WideNetPreTrainedModel) -> VisionTransformer:
    """Return timm's ``VisionTransformer`` of the same function as our dense image model, its weights copied.

    What our blocks share and theirs cannot is copied. Names of classes stay behind, timm has no place for them.

    Raises:
        WideNetError: the model holds something that timm's has not.
    """
    ours: Any = model.config
    if not isinstance(ours, WideNetVisionConfig):
        raise WideNetError(f"{type(model).__name__} reads text; timm's VisionTransformer reads images")
    _check_ours(ours)
    base: Any = model.base_model
    with_head = base is not model
    D, H, reads_cls = ours.hidden_size, ours.intermediate_size, ours.pooling == "cls"
    theirs = VisionTransformer(
        img_size=ours.image_size,
        patch_size=ours.patch_size,
        in_chans=ours.num_channels,
        num_classes=len(ours.id2label or {}) if with_head else 0,
        global_pool="token" if reads_cls else "avg",
        embed_dim=D,
        depth=ours.num_hidden_layers,
        num_heads=ours.num_attention_heads,
        qkv_bias=True,
        mlp_ratio=H / D if int(D * (H / D)) == H else (H + 0.5) / D,  # timm takes the whole part of D times this
        class_token=reads_cls,
        reg_tokens=ours.num_register_tokens,
        fc_norm=ours.norm_after_pooling,
        pos_drop_rate=ours.hidden_dropout_prob,
        proj_drop_rate=ours.hidden_dropout_prob,
        attn_drop_rate=ours.attention_probs_dropout_prob,
        norm_layer=partial(nn.LayerNorm, eps=ours.layer_norm_eps),
        act_layer=_THEIR_ACTIVATIONS[ours.hidden_act],
        weight_init="skip",
    )
    embeddings = base.embeddings
    state = _linear(embeddings.projection, "patch_embed.proj") | {"pos_embed": embeddings.position_embeddings.data}
    for name, tokens in (("cls_token", embeddings.cls_token), ("reg_token", embeddings.register_tokens)):
        if tokens is not None:
            state[name] = tokens.data
    for index, step in enumerate(ours.depth_plan()):
        parts = base.encoder.attentions[step.attention], base.encoder.norms[step.norms]
        state |= _their_block(f"blocks.{index}", *parts, base.encoder.feed_forwards[step.dense])
    state |= _linear(base.norm, "fc_norm") | _linear(base.encoder.final_norm, "norm")
    if with_head:
        state |= _linear(model.classifier, "head")
    load(theirs, state, like=model)
    return theirs


def _check_ours(config: WideNetVisionConfig) -> None:
    """Raise for the first setting that timm's ``VisionTransformer`` does not have."""
    activations = ", ".join(_THEIR_ACTIVATIONS)
    for name, fits, known in (
        ("moe_layers", not config.moe_blocks, "'none'"),
        ("norm_first", config.norm_first, "True"),
        ("use_representation", not config.use_representation, "False"),
        ("hidden_act", config.hidden_act in _THEIR_ACTIVATIONS, activations),
    ):
        if not fits:
            found = f"{name}={getattr(config, name)!r}"
            raise WideNetError(f"{found} has no counterpart in timm's VisionTransformer; supported is {name}={known}")


def _check(model: Any) -> None:
    """Raise for the first setting that our models do not have."""
    for setting, supported, known in _rules(model):
        if not supported:
            _refuse(setting, known)


def _rules(model: Any) -> Iterator[tuple[str, bool, str]]:
    """Yield settings, whether they are as ours, and what that is. Later ones rely on earlier ones."""
    plain, patches = nn.Identity, model.patch_embed
    yield "block_fn", all(type(block) is Block for block in model.blocks), "timm's Block (pre-LN)"
    attentions, mlps = [block.attn for block in model.blocks], [block.mlp for block in model.blocks]
    yield "attn_layer", all(type(attention) is Attention for attention in attentions), "timm's Attention"
    yield "mlp_layer", all(type(mlp) is Mlp for mlp in mlps), "timm's Mlp"
    yield "embed_layer", type(patches) is PatchEmbed, "timm's PatchEmbed"
    yield "embed_norm_layer", type(patches.norm) is plain, "None"
    yield "img_size", len(set(patches.img_size)) == 1, "square"
    yield "patch_size", len(set(patches.patch_size)) == 1, "square"
    yield "pre_norm", type(model.norm_pre) is plain, "False"
    yield "pos_embed", model.pos_embed is not None, "'learn'"
    yield "global_pool", model.global_pool in ("token", "avg"), "'token' or 'avg'"
    yield "pool_include_prefix", not model.pool_include_prefix, "False"
    yield "final_norm", [type(model.norm), type(model.fc_norm)].count(plain) == 1, "True"
    norms = [model.fc_norm if _has_fc_norm(model) else model.norm]
    norms += [norm for block in model.blocks for norm in (block.norm1, block.norm2)]
    yield "norm_layer", all(isinstance(norm, nn.LayerNorm) for norm in norms), "LayerNorm"
    yield "qk_norm", all(type(attention.q_norm) is plain for attention in attentions), "False"
    yield "scale_attn_norm", all(type(attention.norm) is plain for attention in attentions), "False"
    yield "scale_mlp_norm", all(type(mlp.norm) is plain for mlp in mlps), "False"
    yield "gated", all(getattr(attention, "gate", None) is None for attention in attentions), "False"
    width = model.embed_dim
    yield "attn_head_dim", all(attention.attn_dim == width for attention in attentions), "embed_dim / num_heads"


def _has_fc_norm(model: Any) -> bool:
    """Return whether the final norm comes after pooling."""
    return type(model.fc_norm) is not nn.Identity


def _refuse(setting: str, known: str) -> NoReturn:
    raise WideNetError(f"{setting} of this timm model cannot be read; supported is {setting}={known}")


def _activation(module: nn.Module) -> str:
    name = type(module).__name__
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        name = "GELUTanh"
    if name not in _ACTIVATIONS:
        _refuse("act_layer", ", ".join(_ACTIVATIONS))
    return _ACTIVATIONS[name]


def _embeddings(source: Any, prefix: list[Tensor], pooling: str) -> dict[str, Tensor]:
    """Return patches, tokens and positions, by our names."""
    state = _linear(source.patch_embed.proj, "embeddings.projection")
    tokens = torch.cat(prefix, dim=1) if prefix else source.pos_embed.data[:, :0]  # [1, prefix tokens, D]
    if pooling == "cls":
        state["embeddings.cls_token"], tokens = tokens[:, :1], tokens[:, 1:]
    if tokens.shape[1]:
        state["embeddings.register_tokens"] = tokens
    positions = source.pos_embed.data
    if source.no_embed_class:  # the tokens before the patches have no position
        count = sum(token.shape[1] for token in prefix)
        positions = torch.cat([torch.zeros_like(positions[:, :1]).repeat(1, count, 1), positions], dim=1)
    state["embeddings.position_embeddings"] = positions
    return state


def _block(block: Any, index: int) -> dict[str, Tensor]:
    """Return the weights of one block, by our names."""
    attention = f"encoder.attentions.{index}"
    state: dict[str, Tensor] = {}
    for kind, value in _linear(block.attn.qkv, "").items():  # [3·D, D] and [3·D]
        for name, part in zip("qkv", value.chunk(3), strict=True):
            state[f"{attention}.{name}_proj{kind}"] = part
    state |= _linear(block.attn.proj, f"{attention}.o_proj", block.ls1)
    state |= _linear(block.norm1, f"encoder.norms.{index}.attention")
    state |= _linear(block.norm2, f"encoder.norms.{index}.feed_forward")
    state |= _linear(block.mlp.fc1, f"encoder.feed_forwards.{index}.up_proj")
    state |= _linear(block.mlp.fc2, f"encoder.feed_forwards.{index}.down_proj", block.ls2)
    return state


def _their_block(name: str, attention: Any, norms: Any, feed_forward: Any) -> dict[str, Tensor]:
    """Return the weights of one block, by timm's names."""
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    state = {f"{name}.attn.qkv.weight": torch.cat([part.weight.data for part in qkv])}  # [3·D, D]
    state[f"{name}.attn.qkv.bias"] = torch.cat([part.bias.data for part in qkv])  # [3·D]
    state |= _linear(attention.o_proj, f"{name}.attn.proj")
    state |= _linear(norms.attention, f"{name}.norm1") | _linear(norms.feed_forward, f"{name}.norm2")
    return (
        state | _linear(feed_forward.up_proj, f"{name}.mlp.fc1") | _linear(feed_forward.down_proj, f"{name}.mlp.fc2")
    )


def _linear(module: Any, name: str, scale: nn.Module | None = None) -> dict[str, Tensor]:
    """Return weight and bias of a module under our name, its outputs multiplied by a LayerScale."""
    state = {f"{name}.{key}": value.data for key, value in module.named_parameters()}
    if isinstance(scale, LayerScale):
        gamma = scale.gamma.data
        state = {key: value * gamma.view(-1, *[1] * (value.dim() - 1)) for key, value in state.items()}
    return state
