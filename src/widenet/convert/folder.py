"""Model folders in Hugging Face format: loading them, and adapting them to new data."""

import json
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from transformers import ViTImageProcessor
from transformers.utils import logging

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.errors import WideNetError
from widenet.models.heads import Head, config_classes, heads_of
from widenet.models.presets import build_config, own_fields
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.models.text import WideNetForSequenceClassification, WideNetTextPreTrainedModel
from widenet.models.vision import WideNetForImageClassification

TEXT_HEADS = ("masked_lm.", "sentence_order.", "classifier.", "span.", "model.pooler.")
_OF_BLOCKS = re.compile(r"(^|\.)(encoder|layer|layers)\.")
POSITIONS = "model.embeddings.position_embeddings"


Model = TypeVar("Model", bound=WideNetPreTrainedModel)
TextModel = TypeVar("TextModel", bound=WideNetTextPreTrainedModel)


def load_model(
    folder: str | Path,
    model_class: type[Model],
    *,
    fresh: tuple[str, ...] = (),
    config: WideNetConfig | None = None,
) -> Model:
    """Load a model from a run or model folder.

    Args:
        folder: in Hugging Face format.
        model_class: the class with the head that is wanted.
        fresh: beginnings of the names of weights that may be missing or of another shape, and are then
            initialised.
        config: instead of the folder's own.

    Raises:
        WideNetError: the folder is missing, incomplete, damaged or holds another architecture.
    """
    folder = Path(folder)
    _describe(folder, model_class.config_class.model_type)
    check_weights(folder)
    own: dict[str, Any] = {} if config is None else {"config": config}
    model, _ = read_folder(folder, model_class, fresh, **own)
    return model


def read_folder(folder: Path, model_class: Any, fresh: tuple[str, ...], **options: Any) -> tuple[Any, list[str]]:
    """Load a model of any class of transformers, every complaint in one line.

    Args:
        folder: in Hugging Face format.
        model_class: the class with the head that is wanted.
        fresh: as for :func:`load_model`.
        **options: of ``from_pretrained``; ``config`` if it is to be instead of the folder's own.

    Returns:
        The model, and the names of the weights that were not in the folder.

    Raises:
        WideNetError: the folder is incomplete or damaged.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what does not fit becomes an exception here, not a table on the terminal
    try:
        loaded = model_class.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except (
        *(SafetensorError, StrictDataclassError, UnpicklingError),
        *(OSError, ValueError, TypeError, RuntimeError, AttributeError),
    ) as error:
        raise WideNetError(f"{folder} cannot be loaded: {loading_problem(error)}") from error
    except KeyError as error:  # an activation, for example
        raise WideNetError(f"{folder}/config.json has an unknown value: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    model, info = loaded
    for key, stored, expected in sorted(info["mismatched_keys"]):
        if key.startswith(fresh):
            continue
        if "config" in options:
            raise WideNetError(f"{folder} has the shape {[*stored]} at {key}, but {[*expected]} was asked for")
        raise WideNetError(
            f"{folder} is damaged: {key} has the shape {[*stored]}, but config.json asks for {[*expected]}"
        )
    beyond = sorted(filter(_OF_BLOCKS.search, info["unexpected_keys"]))
    if beyond and "config" not in options:
        raise WideNetError(f"{folder} is damaged: it has weights that config.json has no block for, first {beyond[0]}")
    missing = sorted(info["missing_keys"])
    if lacking := [key for key in missing if not key.startswith(fresh)]:
        more = f" and {len(lacking) - 6} more" if len(lacking) > 6 else ""
        raise WideNetError(f"{folder} is incomplete: it lacks the weights {', '.join(lacking[:6])}{more}")
    return model, missing


def loading_problem(error: Exception) -> str:
    """Return what an exception of loading says, in a line, without the advice to run what a pickle holds."""
    text = " ".join(str(error).split())
    return "its pickle holds more than weights, or is damaged" if "weights_only" in text else text[:300]


def read_config(folder: Path, config_class: type[WideNetConfig] | None = None) -> Any:
    """Return the configuration of the model in a folder, without reading its weights.

    Args:
        folder: in Hugging Face format.
        config_class: which kind is wanted; any of ours by default.

    Raises:
        WideNetError: the folder is missing or damaged, or holds another architecture.
    """
    classes = config_classes()
    described = _describe(folder, *(classes if config_class is None else [config_class.model_type]))
    try:
        return classes[described["model_type"]].from_dict(described)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise WideNetError(f"{folder}/config.json cannot be read: {' '.join(str(error).split())}") from error


def start_config(folder: Path, config_class: type[WideNetConfig]) -> Any:
    """Return the configuration of a model to start from, which has weights, too; they are not read yet.

    Raises:
        WideNetError: as :func:`read_config`, or there are no weights.
    """
    config = read_config(folder, config_class)
    check_weights(folder)
    return config


def head_in(folder: Path, described: dict[str, Any]) -> Head:
    """Return the head that the ``config.json`` of a model of ours names.

    Raises:
        WideNetError: it names no class that is registered for its ``model_type``.
    """
    name = (described.get("architectures") or ["no class"])[0]
    heads = heads_of(config_classes()[described["model_type"]]).values()
    classes = {head.model_class.__name__: head for head in heads}
    if name not in classes:
        raise WideNetError(f"{folder}/config.json names {name}; models of ours are {', '.join(classes)}")
    return classes[name]


def read_description(folder: Path) -> dict[str, Any]:
    """Return what the ``config.json`` of a model folder holds, whatever model that is.

    Raises:
        WideNetError: it is missing or damaged.
    """
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WideNetError(f"{folder} is not a model folder: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise WideNetError(f"{folder}/config.json cannot be read: {error}") from error
    if not isinstance(described, dict):
        raise WideNetError(f"{folder}/config.json cannot be read: it holds a {type(described).__name__}, no object")
    return described


def _describe(folder: Path, *model_types: str) -> dict[str, Any]:
    """Return a model folder's ``config.json``, if it is of one of these types."""
    if not folder.is_dir():
        raise WideNetError(f"model folder {folder} does not exist")
    described = read_description(folder)
    model_type = described.get("model_type")
    if model_type not in model_types:
        raise WideNetError(f"{folder} holds a {model_type!r} model, not a {' or '.join(map(repr, model_types))} one")
    return described


def check_weights(folder: Path) -> None:
    """Raise :class:`WideNetError` where a model folder has no weights; they are not read."""
    if not any(folder.glob("model*.safetensors")):
        raise WideNetError(f"{folder} is incomplete: it has no model.safetensors")


def load_processor(run: str | Path) -> ViTImageProcessor:
    """Load the image processor of a run.

    Raises:
        WideNetError: the folder has none, or it is damaged.
    """
    if not (Path(run) / "preprocessor_config.json").is_file():
        raise WideNetError(f"{run} is incomplete: it has no preprocessor_config.json")
    try:
        return ViTImageProcessor.from_pretrained(run)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WideNetError(f"{run}/preprocessor_config.json cannot be read: {' '.join(str(error).split())}") from error


def adapt_text_model(folder: Path, model_class: type[TextModel], fields: dict[str, Any]) -> TextModel:
    """Load a text model to be fine-tuned: its encoder, and its head where it has the right one.

    Args:
        folder: a pretrained or fine-tuned text model.
        model_class: with the head that is wanted.
        fields: config fields to change; other class names mean a new classifier.

    Raises:
        WideNetError: as :func:`load_model`, or a field does not exist or does not fit the weights.
    """
    before = read_config(folder, WideNetTextConfig)
    kept = {key: value for key, value in before.to_diff_dict().items() if key in own_fields(WideNetTextConfig)}
    config = build_config(WideNetTextConfig, {**kept, **fields})
    model = load_model(folder, model_class, fresh=TEXT_HEADS, config=config)
    if isinstance(model, WideNetForSequenceClassification) and config.id2label != before.id2label:
        nn.init.normal_(model.classifier.weight, std=config.initializer_range)
        nn.init.zeros_(model.classifier.bias)
    return model


def adapt_classifier(
    source: WideNetForImageClassification, class_names: list[str], overrides: dict[str, Any]
) -> WideNetForImageClassification:
    """Return the source's model with another head, image size or other fields, ready to be fine-tuned.

    The classifier is kept only where the classes are the same; position embeddings are interpolated to the
    new grid; ``use_representation=False`` drops the representation layer (as for Table 5).

    Args:
        source: the model to start from.
        class_names: the classes of the new data.
        overrides: config fields to change.

    Raises:
        WideNetError: an override does not fit the source's weights.
    """
    labels = dict(enumerate(class_names))
    fields = source.config.to_diff_dict()
    same_classes = fields.get("id2label") == labels or source.config.id2label == labels
    fields = {key: value for key, value in fields.items() if key in own_fields(WideNetVisionConfig)}
    names = {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    config = build_config(WideNetVisionConfig, {**fields, **names, **overrides})
    target = WideNetForImageClassification(config)
    state: dict[str, Tensor] = dict(source.state_dict())
    expected = target.state_dict()

    new_head = not same_classes
    grid = config.image_size // config.patch_size
    if state[POSITIONS].shape != expected[POSITIONS].shape and config.pooling == source.config.pooling:
        state[POSITIONS] = resample_abs_pos_embed(
            state[POSITIONS], [grid, grid], num_prefix_tokens=config.num_prefix_tokens
        )
    dropped = [key for key in state if new_head and key.startswith("classifier.")]
    dropped += [key for key in state if not config.use_representation and ".representation." in key]
    for key in dropped:
        del state[key]
    for key, value in state.items():
        if key not in expected or value.shape != expected[key].shape:
            changed = ", ".join(f"model.{name}={value}" for name, value in overrides.items())
            raise WideNetError(f"the model to start from has other weights at {key}; {changed} does not fit them")
    missing = [key for key in expected if key not in state]
    fresh = ("classifier.",) if new_head else ()
    if unexplained := [key for key in missing if not key.startswith(fresh)] if fresh else missing:
        raise WideNetError(f"the model to start from lacks the weights {', '.join(unexplained)}")
    target.load_state_dict(state, strict=False)
    return target
