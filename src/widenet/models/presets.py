"""The models by name: a preset is a row of one table, and :func:`create_model` merges the caller's overrides into it.

So every ablation of the paper is a preset and an override. ``models/paper.py`` lists them, with the published sizes
and scores.
"""

from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

from huggingface_hub.errors import StrictDataclassError

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.errors import WideNetError, unknown
from widenet.models.heads import heads_of
from widenet.models.pretrained import WideNetPreTrainedModel

Config = TypeVar("Config", bound=WideNetConfig)


class _Base(NamedTuple):
    """What the presets of one size share: the configuration class, and values of its fields."""

    config_class: type[WideNetConfig]
    fields: dict[str, Any]


def _images(*dimensions: int, size: tuple[int, int], classes: int, **others: Any) -> _Base:
    image_size, patch_size = size
    images = {"image_size": image_size, "patch_size": patch_size, "num_labels": classes, **others}
    return _Base(WideNetVisionConfig, dict(zip(_DIMENSIONS, dimensions, strict=True)) | images)


def _text(*dimensions: int, vocabulary: int = 30000, embedding: int = 128, length: int = 512) -> _Base:
    text = {"vocab_size": vocabulary, "embedding_size": embedding, "max_position_embeddings": length}
    return _Base(WideNetTextConfig, dict(zip(_DIMENSIONS, dimensions, strict=True)) | text)


_DIMENSIONS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
_B16 = _images(12, 768, 12, 3072, size=(224, 16), classes=1000, use_representation=True)
_L16 = _images(24, 1024, 16, 4096, size=(224, 16), classes=1000, use_representation=True)
_H16 = _images(32, 1280, 16, 5120, size=(224, 16), classes=1000, use_representation=True)
_TEXT = _text(12, 768, 12, 3072)
# Ours, for small machines: 224-pixel images, 28-pixel images, and the 8-pixel digits.
_TI16 = _images(12, 192, 3, 768, size=(224, 16), classes=1000)
_MINI = _images(6, 192, 6, 384, size=(28, 7), classes=10)
_DIGITS = _images(4, 96, 4, 192, size=(8, 2), classes=10)
# Text that two cores pretrain in about an hour, and text for tests.
_TEXT_MINI = _text(6, 256, 4, 512, vocabulary=8000)
_TEXT_TINY = _text(2, 64, 4, 128, vocabulary=1000, embedding=32, length=128)

# The architectures, as changes of a WideNet. BERT's embedding is factorised, as ALBERT's.
_UNSHARED: dict[str, Any] = {"share_attention": False, "share_ffn": False}
_BERT = {**_UNSHARED, "moe_layers": "none"}
_VIT = {**_BERT, "pooling": "cls"}
_ALBERT = {"share_norm": True, "moe_layers": "none"}

_PRESETS: dict[str, tuple[_Base, dict[str, Any]]] = {
    # Table 1
    "vit-b16": (_B16, _VIT),
    "vit-l16": (_L16, _VIT),
    "vit-moe-b16": (_B16, {**_UNSHARED, "moe_layers": [10, 11], "expert_intermediate_size": 4096}),
    "vit-moe-l16": (_L16, {**_UNSHARED, "moe_layers": [20, 21, 22, 23]}),
    "widenet-b16": (_B16, {"expert_intermediate_size": 4096}),
    "widenet-l16": (_L16, {}),
    "widenet-h16": (_H16, {}),
    # Table 2. The release of ALBERT has the tanh form of GELU.
    "albert-base": (_TEXT, {**_ALBERT, "hidden_act": "gelu_new"}),
    "bert-base-factorized": (_TEXT, _BERT),
    "widenet-text-e4": (_TEXT, {"num_experts": 4}),
    "widenet-text-e8": (_TEXT, {"num_experts": 8}),
    "widenet-text-e16": (_TEXT, {"num_experts": 16}),
    # Ours: a WideNet with the baselines of its depth and width, as Tables 1 and 2 pair them.
    "widenet-ti16": (_TI16, {}),
    "vit-ti16": (_TI16, _VIT),
    "vit-moe-ti16": (_TI16, {**_UNSHARED, "moe_layers": [10, 11]}),
    "widenet-mini": (_MINI, {}),
    "vit-mini": (_MINI, _VIT),
    "vit-moe-mini": (_MINI, {**_UNSHARED, "moe_layers": [4, 5]}),
    "widenet-digits": (_DIGITS, {}),
    "vit-digits": (_DIGITS, _VIT),
    "vit-moe-digits": (_DIGITS, {**_UNSHARED, "moe_layers": [2, 3]}),
    "widenet-text-mini": (_TEXT_MINI, {}),
    "albert-mini": (_TEXT_MINI, _ALBERT),
    "bert-mini": (_TEXT_MINI, _BERT),
    "widenet-text-tiny": (_TEXT_TINY, {}),
    "albert-tiny": (_TEXT_TINY, _ALBERT),
    "bert-tiny": (_TEXT_TINY, _BERT),
}


def list_models() -> list[str]:
    """Return the name of every preset."""
    return list(_PRESETS)


def create_config(name: str, **overrides: Any) -> Any:
    """Return a preset's configuration with fields overridden: its kind's class, image or text.

    Args:
        name: one of :func:`list_models`.
        **overrides: config fields.

    Raises:
        WideNetError: the name or a field does not exist, or a value has the wrong type or is out of range.
    """
    if name not in _PRESETS:
        raise unknown("preset", name, _PRESETS)
    base, changes = _PRESETS[name]
    fields = deepcopy({**base.fields, **changes})  # a list in a configuration is its own
    if "id2label" in overrides:  # names count the classes; the preset's number is its paper's
        fields.pop("num_labels", None)
    return build_config(base.config_class, {**fields, **overrides})


def own_fields(config_class: type[WideNetConfig]) -> list[str]:
    """Return the fields that this package adds to transformers' configuration."""
    ours = [base for base in config_class.__mro__ if issubclass(base, WideNetConfig)]
    return [field for base in ours for field in base.__annotations__]


def build_config(config_class: type[Config], fields: dict[str, Any]) -> Config:
    """Build a configuration, turning every complaint about ``fields`` into one line.

    Raises:
        WideNetError: a field does not exist, or a value has the wrong type or is out of range.
    """
    allowed = [*own_fields(config_class), "num_labels", "id2label", "label2id"]
    for field in fields:
        if field not in allowed:
            raise unknown("config field", field, sorted(allowed))
    # transformers does not check the types of these.
    for name, expected in (("num_labels", int), ("id2label", dict), ("label2id", dict)):
        if name in fields and type(fields[name]) is not expected:
            kind = type(fields[name]).__name__
            raise WideNetError(f"Field {name!r} expected {expected.__name__}, got {kind} (value: {fields[name]!r})")
    if fields.get("num_labels", 1) < 1:
        raise WideNetError(f"num_labels={fields['num_labels']!r} must be at least 1")
    try:
        return config_class(**fields)
    except WideNetError:
        raise
    except (StrictDataclassError, TypeError, ValueError) as error:
        # The strict dataclass wraps the plain sentence in a second, longer one.
        raise WideNetError(" ".join(str(error.__cause__ or error).split())) from error


def create_model(name: str, task: str | None = None, **overrides: Any) -> WideNetPreTrainedModel:
    """Return a freshly initialised model.

    Args:
        name: one of :func:`list_models`.
        task: the name of a head (``models/heads.py``), for example "features" for the model without one. None is
            the default of the images or texts that the model reads.
        **overrides: config fields, for example ``num_experts=8`` or ``share_norm=True``.

    Raises:
        WideNetError: the name, task or a field does not exist, or a value does not fit.
    """
    config = create_config(name, **overrides)
    heads = heads_of(type(config))
    task = task or next(iter(heads))
    if task not in heads:
        raise unknown(f"task for {name}", task, heads)
    return heads[task].model_class(config)
