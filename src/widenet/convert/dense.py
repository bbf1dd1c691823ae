"""Dense models of transformers as models of ours, and ours as theirs, weight by weight: BERT, ALBERT, ViT, DeiT.

A conversion only renames: both directions read the tables of ``layouts.py``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AlbertConfig, PreTrainedModel

from widenet.config import WideNetVisionConfig
from widenet.convert.layouts import ALBERT, BERT, DEIT, LAYOUTS, VIT
from widenet.errors import WideNetError
from widenet.models.presets import build_config
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.models.text import WideNetForSequenceClassification, WideNetTextModel
from widenet.models.vision import WideNetForImageClassification


def from_transformers(model: PreTrainedModel) -> WideNetPreTrainedModel:
    """Return our model of the same function as a BERT, ALBERT, ViT or DeiT of transformers, its weights copied.

    DeiT's distillation token becomes a register: it is there for the other tokens, and no classifier reads it.

    Raises:
        WideNetError: another architecture or head, or a variant that our configuration has no word for.
    """
    layout = next((layout for layout in LAYOUTS.values() if type(model) in layout.models), None)
    if layout is None:
        raise _unreadable(model)
    theirs: Any = model.config
    blocks = _blocks(theirs)
    fields = {name: getattr(theirs, name) for name in layout.fields} | {"moe_layers": "none"}
    if layout is ALBERT:
        if theirs.embedding_size == theirs.hidden_size:
            raise WideNetError(f"embedding_size={theirs.embedding_size} is hidden_size; ours has no projection there")
        fields |= {"embedding_size": theirs.embedding_size, "share_norm": True, "num_sharing_groups": blocks}
    else:
        fields |= {"share_attention": False, "share_ffn": False}
    if layout is BERT:
        fields |= {"embedding_size": theirs.hidden_size}
    if layout.our_config is WideNetVisionConfig:
        for name in ("image_size", "patch_size"):
            fields[name] = _square(name, fields[name])
        fields |= {"pooling": "cls", "num_register_tokens": int(layout is DEIT)}
        fields |= {"use_representation": _has_pooler(model)}
    our_class = layout.models[type(model)]
    fields |= _labels(our_class, theirs)
    ours = our_class(build_config(layout.our_config, fields))
    if isinstance(ours, WideNetTextModel) and not _has_pooler(model):
        ours.pooler = None
    names = layout.names(ours.config, blocks, with_head=ours.base_model is not ours)
    _copy(model, ours, names)
    return ours


def to_transformers(model: WideNetPreTrainedModel) -> PreTrainedModel:
    """Return the model of transformers of the same function as our dense model, its weights copied.

    Images: a ViT, or a DeiT where there is a register. Text: a BERT where the embeddings are as wide as the
    blocks, else an ALBERT: of our sharing groups where all is shared, else of a group per block. What our blocks
    share and theirs cannot is copied.

    Raises:
        WideNetError: the model holds something that none of them has.
    """
    ours: Any = model.config
    if ours.moe_blocks:
        raise WideNetError(f"blocks {ours.moe_blocks} hold mixtures; BERT, ALBERT, ViT and DeiT have none")
    images = isinstance(ours, WideNetVisionConfig)
    if ours.norm_first != images:
        kinds = "ViT and DeiT have pre-LN" if images else "BERT and ALBERT have post-LN"
        raise WideNetError(f"norm_first={ours.norm_first}, but {kinds} blocks")
    if images:
        layout = DEIT if ours.num_register_tokens else VIT
        _check_image_model(model)
    else:
        layout = BERT if ours.embedding_size == ours.hidden_size else ALBERT
    fields = {name: getattr(ours, name) for name in layout.fields} | _labels(type(model), ours)
    if layout is ALBERT:
        shared = ours.share_attention and ours.share_ffn and ours.share_norm
        groups = ours.num_sharing_groups if shared else ours.num_hidden_layers
        fields |= {"embedding_size": ours.embedding_size, "num_hidden_groups": groups}
    config = layout.config_class(**fields)
    counterparts: dict[Any, Any] = {ours: theirs for theirs, ours in layout.models.items()}
    if type(model) not in counterparts:
        known = ", ".join(known.__name__ for known in counterparts)
        raise WideNetError(f"{type(model).__name__} has no counterpart in transformers; these have one: {known}")
    their_class = counterparts[type(model)]
    with_head = model.base_model is not model
    base: Any = model.base_model
    pooler = base.representation if images else base.pooler
    theirs = their_class(config) if with_head else their_class(config, add_pooling_layer=pooler is not None)
    _copy(theirs, model, layout.names(ours, _blocks(config), with_head), backwards=True)
    return theirs


def _unreadable(model: PreTrainedModel) -> WideNetError:
    """Return the error for a model of an architecture or with a head that has no :class:`Layout`."""
    name = type(model).__name__
    if name == "DeiTForImageClassificationWithTeacher":
        return WideNetError(f"{name} averages two classifiers, ours has one; read it without: task='features'")
    known = ", ".join(model.__name__ for layout in LAYOUTS.values() for model in layout.models)
    return WideNetError(f"{name} cannot be read as a dense model; these can: {known}")


def _blocks(theirs: Any) -> int:
    """Return the number of blocks with weights of their own.

    Raises:
        WideNetError: the configuration asks for what our blocks do not do.
    """
    for name, value in (("is_decoder", False), ("add_cross_attention", False), ("head_dim", None)):
        if (found := getattr(theirs, name, value)) != value:
            raise WideNetError(f"{name}={found} cannot be read; a dense source has {name}={value}")
    positions = getattr(theirs, "position_embedding_type", "absolute")
    if positions != "absolute":
        raise WideNetError(f"position_embedding_type={positions!r} cannot be read; a dense source has 'absolute'")
    B = theirs.num_hidden_layers
    if not isinstance(theirs, AlbertConfig):
        return B
    groups, inner = theirs.num_hidden_groups, theirs.inner_group_num
    if groups < 1 or B % groups or inner != 1:
        raise WideNetError(
            f"num_hidden_groups={groups} and inner_group_num={inner} cannot be read: the groups must divide the {B} "
            "blocks, and be of one layer each"
        )
    return groups


def _has_pooler(model: Any) -> bool:
    """Return whether a model without a head has a pooler that is ours.

    Raises:
        WideNetError: it has another one.
    """
    if getattr(model, "pooler", None) is None:
        return False
    config = model.config
    wanted = {"pooler_act": "tanh", "pooler_output_size": config.hidden_size}
    for name, value in wanted.items():
        if (found := getattr(config, name, value)) != value:
            raise WideNetError(f"{name}={found!r} cannot be read; a dense source has {name}={value!r}")
    return True


def _square(name: str, value: Any) -> int:
    """Return the side of a square that transformers gives as a number or a pair."""
    if isinstance(value, int):
        return value
    height, width = value
    if height != width:
        raise WideNetError(f"{name}={height}×{width} cannot be read; it must be square")
    return height


def _labels(our_class: type[PreTrainedModel], config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that belong to a classifier."""
    if not issubclass(our_class, WideNetForSequenceClassification | WideNetForImageClassification):
        return {}
    names = ("id2label", "label2id", "problem_type")
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}


def _check_image_model(model: WideNetPreTrainedModel) -> None:
    """Raise for an image model that is no ViT or DeiT."""
    config: Any = model.config
    if config.pooling != "cls":
        raise WideNetError(f"pooling={config.pooling!r}, but ViT and DeiT read [CLS] ('cls')")
    if config.norm_after_pooling:
        raise WideNetError("norm_after_pooling=True, but ViT and DeiT have their final norm before")
    if config.num_register_tokens > 1:
        raise WideNetError(f"num_register_tokens={config.num_register_tokens}, but a DeiT has 1 and a ViT none")
    if config.use_representation and model.base_model is not model:
        raise WideNetError("use_representation=True, but ViT and DeiT have no layer before the classifier")


def _copy(theirs: nn.Module, ours: nn.Module, names: dict[str, str], backwards: bool = False) -> None:
    """Copy every weight of theirs to ours or backwards, and the mode, data type and device with them."""
    source, target = (ours, theirs) if backwards else (theirs, ours)
    weights = source.state_dict()
    state: dict[str, Tensor] = {}
    for key in theirs.state_dict():
        module, _, parameter = key.rpartition(".")
        if parameter == "mask_token":  # of pretraining by masked images; no forward pass of ours has a use for it
            continue
        name = names.get(key) or f"{names[module]}.{parameter}"
        there, here = (name, key) if backwards else (key, name)
        state[here] = weights[there]
    load(target, state, like=source)


def load(model: nn.Module, state: dict[str, Tensor], like: nn.Module, partial: bool = False) -> None:
    """Load a state, and take over the mode, data type and device of another model.

    Args:
        model: what is loaded into.
        state: complete, but that a projection without a bias (``qkv_bias=False``) gets one of zeros.
        like: the other model.
        partial: load only what both have.

    Raises:
        WideNetError: a weight of the state has another shape than the model's.
    """
    if partial:
        own = model.state_dict()
        state = own | {key: value for key, value in state.items() if key in own}
    first = next(like.parameters())
    model.to(device=first.device, dtype=first.dtype)
    for key, value in model.state_dict().items():
        if key not in state and key.endswith("_proj.bias"):
            state[key] = torch.zeros_like(value)
        if key in state and state[key].shape != value.shape:
            raise WideNetError(
                f"the source has the shape {[*state[key].shape]} where {key} of ours has {[*value.shape]}"
            )
    model.load_state_dict(state)
    model.train(like.training)
