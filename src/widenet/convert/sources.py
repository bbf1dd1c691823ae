"""Where dense models come from: a model, a folder or a public name, of transformers, of timm or of our own."""

import re
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from widenet.config import WideNetVisionConfig
from widenet.convert.dense import from_transformers, load
from widenet.convert.folder import head_in, loading_problem, read_description, read_folder
from widenet.convert.layouts import LAYOUTS
from widenet.convert.timm_vit import from_timm
from widenet.errors import WideNetError, unknown
from widenet.models.heads import config_classes, heads_of
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.models.text import WideNetTextModel

SUPPORTED = "BERT, ALBERT, ViT and DeiT of transformers, ViT (vit_*) of timm, and this package's dense models"
_WEIGHTS, _PICKLES = "model*.safetensors", "pytorch_model*.bin"
_DOWNLOADED = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]  # whose card may name a license


def from_dense(
    model_or_path: nn.Module | str | Path, task: str | None = None, *, allow_pickle: bool = False
) -> WideNetPreTrainedModel:
    """Return our model of the same function as a dense one: the same hidden states and logits.

    Args:
        model_or_path: a model of transformers (BERT, ALBERT, ViT, DeiT) or timm (ViT), or a dense one of ours; a
            folder with one; or its public name, which is downloaded.
        task: what the model is for, as in :func:`widenet.create_model`. None is the source's own task. A head
            that the source lacks is initialised afresh, one that the task has no use for is left out.
        allow_pickle: read a checkpoint that is a pickle, too (``pytorch_model.bin``), with ``weights_only=True``.

    Returns:
        A model of this package in the source's mode (training or evaluation) and data type. Its encoder shares
        as the source does, and it holds no mixture.

    Raises:
        WideNetError: the source does not exist, is damaged or incomplete, is a pickle, or is of an architecture
            or variant that has no counterpart here.
    """
    source: Any = model_or_path
    if not isinstance(source, nn.Module | str | Path):
        raise _unsupported(type(source).__name__)
    if not isinstance(source, nn.Module):
        source = read_source(find_source(source), task, allow_pickle)
    if isinstance(source, WideNetPreTrainedModel):
        if source.config.moe_blocks:
            raise WideNetError(f"the source holds mixtures in blocks {source.config.moe_blocks}; it is not dense")
        ours = deepcopy(source)
    elif isinstance(source, PreTrainedModel):
        classes = [model_class for layout in LAYOUTS.values() for model_class in layout.models]
        without_head = task == "features" or (task is not None and type(source) not in classes)
        if without_head and type(source.base_model) in classes:
            source = source.base_model
        if type(source) not in classes and source.config.model_type not in LAYOUTS:
            raise _unsupported(type(source).__name__)
        ours = from_transformers(source)
    elif type(source).__module__.startswith("timm."):
        ours = from_timm(source, with_head=task != "features")
    else:
        raise _unsupported(type(source).__name__)
    return _for_task(ours, task)


def find_source(source: str | Path) -> Path:
    """Return the folder of a dense model; what is not a folder here is a public name, and is downloaded.

    Raises:
        WideNetError: there is no such folder, and no such name or no way to download it.
    """
    name = str(source)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if folder.is_file():
        raise WideNetError(f"{name} is a file; pass the folder that holds config.json and the weights")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or ("/" in name and folder.parent.is_dir()):
        raise WideNetError(f"model folder {name!r} does not exist")
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    published = (config and config.hf_hub_id) or name
    try:
        return Path(snapshot_download(published, allow_patterns=_DOWNLOADED))
    except Exception as error:  # of the network, the hub or the name: they have no common base
        reason = str(error).split("\n")[0][:150]
        raise WideNetError(
            f"{name} is no folder here and could not be downloaded ({reason}); pass the path of a local folder"
        ) from error


def read_source(folder: Path, task: str | None = None, allow_pickle: bool = False) -> nn.Module:
    """Return the model in a folder: of transformers, of timm, or ours.

    Raises:
        WideNetError: as :func:`from_dense`.
    """
    described = _described(folder)
    model_type, is_timm = str(described.get("model_type")), _is_timm(described)
    pickled = not any(folder.glob(_WEIGHTS))
    if pickled and not any(folder.glob(_PICKLES)):
        raise WideNetError(f"{folder} is incomplete: it has no model.safetensors")
    if pickled and not allow_pickle:
        raise WideNetError(
            f"{folder} has its weights in a pickle, which may hold a program, and not in model.safetensors; if you "
            "trust it, pass allow_pickle=True (--allow-pickle)"
        )
    if is_timm:
        return _read_timm(folder, described, pickled)
    if model_type in config_classes():
        model_class = head_in(folder, described).model_class
        fresh = ("pooler.",) if model_class is WideNetTextModel else ()
        model, missing = read_folder(folder, model_class, fresh)
        if missing:  # saved without one
            model.pooler = None
        return model
    return _read_transformers(folder, described, task, pickled)


def reads_images(folder: Path) -> bool:
    """Whether the model in a folder is one of images, rather than of text.

    Raises:
        WideNetError: the folder holds no model that can be read.
    """
    described = _described(folder)
    configs = config_classes() | {name: layout.our_config for name, layout in LAYOUTS.items()}
    return _is_timm(described) or issubclass(configs[described["model_type"]], WideNetVisionConfig)


def _described(folder: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a model of transformers, of timm or of ours."""
    described = read_description(folder)
    model_type = described.get("model_type")
    if not _is_timm(described) and model_type not in (*config_classes(), *LAYOUTS):
        raise _unsupported(f"{model_type!r} in {folder}")
    return described


def _is_timm(described: dict[str, Any]) -> bool:
    return described.get("model_type") is None and isinstance(described.get("architecture"), str)


def _read_transformers(folder: Path, described: dict[str, Any], task: str | None, pickled: bool) -> PreTrainedModel:
    """Return a model of transformers; with a task, one without its head where that is one that we lack."""
    name = (described.get("architectures") or ["no class"])[0]
    models = LAYOUTS[described["model_type"]].models
    classes = {model_class.__name__: model_class for model_class in models}
    base = next(iter(models))
    if name not in classes and task is None and name != "no class":
        raise WideNetError(
            f"{folder} holds a {name}, whose head has no counterpart here; with a task it is read without "
            f"(task='features'). Heads that can be read: {', '.join(classes)}"
        )
    model_class = classes.get(name, base)
    fresh = ("pooler.",) if model_class is base else ()
    model, missing = read_folder(folder, model_class, fresh, use_safetensors=not pickled, weights_only=True)
    if missing:  # the pooler: made up, so better left out
        model.pooler = None
    return model


def _read_timm(folder: Path, described: dict[str, Any], pickled: bool) -> nn.Module:
    """Return a model of timm from a folder that timm saved."""
    name = described["architecture"]
    if not timm.is_model(name) or not name.startswith(("vit_", "deit")):
        raise _unsupported(f"{name!r} in {folder}")
    arguments = {key: described[key] for key in ("num_classes", "global_pool") if key in described}
    path = folder / ("pytorch_model.bin" if pickled else "model.safetensors")
    try:
        model = timm.create_model(name, pretrained=False, **arguments | described.get("model_args", {}))
        state = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
        model.load_state_dict(state)
    except (SafetensorError, UnpicklingError, OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise WideNetError(f"{folder} cannot be loaded: {loading_problem(error)}") from error
    return model.eval()


def _unsupported(what: str) -> WideNetError:
    return WideNetError(f"{what} is no architecture that can be read; these can: {SUPPORTED}")


def _for_task(model: WideNetPreTrainedModel, task: str | None) -> WideNetPreTrainedModel:
    """Return the model with the head for a task; what both have is kept, the rest is new."""
    if task is None:
        return model
    heads = heads_of(type(model.config))
    if task not in heads:
        raise unknown("task of this source", task, heads)
    if type(model) is heads[task].model_class:
        return model
    target = heads[task].model_class(model.config)
    base: Any = model.base_model
    if isinstance(target, WideNetTextModel) and base.pooler is None:
        target.pooler = None
    prefix = "" if target.base_model is target else "model."
    state = {f"{prefix}{key}": value for key, value in base.state_dict().items()}
    if base is not model:
        state |= {key: value for key, value in model.state_dict().items() if not key.startswith("model.")}
    load(target, state, like=model, partial=True)
    return target
