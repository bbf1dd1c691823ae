"""The paper's models by name, each a few lines. The sizes in the docstrings are the published ones.

A preset is a function that returns config fields; :func:`create_model` merges the caller's overrides
into them, so every ablation of the paper is a preset and an override (``analysis/paper.py`` lists them).
"""

from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.errors import WideNetError, unknown
from widenet.models.heads import heads_of
from widenet.models.pretrained import WideNetPreTrainedModel

Fields = Callable[[], dict[str, Any]]
Config = TypeVar("Config", bound=WideNetConfig)


_IMAGES, _TEXT = WideNetVisionConfig, WideNetTextConfig
_PRESETS: dict[str, tuple[type[WideNetConfig], Fields]] = {}

_UNSHARED = {"share_attention": False, "share_ffn": False, "moe_layers": "none"}
_VIT = {**_UNSHARED, "pooling": "cls"}
_ALBERT = {"share_norm": True, "moe_layers": "none"}
_IMAGENET = {"image_size": 224, "patch_size": 16, "num_labels": 1000, "use_representation": True}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}


def _preset(name: str, config_class: type[WideNetConfig] = _IMAGES) -> Callable[[Fields], Fields]:
    def register(function: Fields) -> Fields:
        _PRESETS[name] = config_class, function
        return function

    return register


@_preset("vit-b16")
def _vit_b16() -> dict[str, Any]:
    """ViT-B/16: 87M parameters, 78.6 % ImageNet-1K top-1 (Table 1)."""
    return {**_BASE, **_IMAGENET, **_VIT}


@_preset("vit-l16")
def _vit_l16() -> dict[str, Any]:
    """ViT-L/16: 305M parameters, 77.5 % ImageNet-1K top-1 (Table 1)."""
    return {**_LARGE, **_IMAGENET, **_VIT}


@_preset("vit-moe-b16")
def _vit_moe_b16() -> dict[str, Any]:
    """ViT-MoE-B/16, mixtures in the last 2 blocks: 128M parameters, 77.9 % top-1 (Table 1)."""
    moe = {"moe_layers": [10, 11], "expert_intermediate_size": 4096, "pooling": "mean"}
    return {**_BASE, **_IMAGENET, **_VIT, **moe}


@_preset("vit-moe-l16")
def _vit_moe_l16() -> dict[str, Any]:
    """ViT-MoE-L/16, mixtures in the last 4 blocks: 406M parameters, 77.4 % top-1 (Table 1)."""
    return {**_LARGE, **_IMAGENET, **_VIT, "moe_layers": [20, 21, 22, 23], "pooling": "mean"}


@_preset("widenet-b16")
def _widenet_b16() -> dict[str, Any]:
    """WideNet-B/16: 29M parameters, 77.5 % ImageNet-1K top-1 (Table 1)."""
    return {**_BASE, **_IMAGENET, "expert_intermediate_size": 4096}


@_preset("widenet-l16")
def _widenet_l16() -> dict[str, Any]:
    """WideNet-L/16: 40M parameters, 79.5 % ImageNet-1K top-1 (Table 1)."""
    return {**_LARGE, **_IMAGENET}


@_preset("widenet-h16")
def _widenet_h16() -> dict[str, Any]:
    """WideNet-H/16: 63M parameters, 80.1 % ImageNet-1K top-1 (Table 1)."""
    return {**_HUGE, **_IMAGENET}


@_preset("albert-base", _TEXT)
def _albert_base() -> dict[str, Any]:
    """ALBERT: 12M parameters, 84.0 on average (Table 2). Its release has the tanh form of GELU."""
    return {**_BASE, **_ALBERT, "hidden_act": "gelu_new"}


@_preset("bert-base-factorized", _TEXT)
def _bert_base_factorized() -> dict[str, Any]:
    """BERT with ALBERT's factorised embedding: 89M parameters, 85.0 on average (Table 2)."""
    return {**_BASE, **_UNSHARED}


@_preset("widenet-text-e4", _TEXT)
def _widenet_text_e4() -> dict[str, Any]:
    """WideNet with 4 experts: 26M parameters, 84.7 on average (Table 2)."""
    return {**_BASE, "num_experts": 4}


@_preset("widenet-text-e8", _TEXT)
def _widenet_text_e8() -> dict[str, Any]:
    """WideNet with 8 experts: 45M parameters, 85.2 on average (Table 2)."""
    return {**_BASE, "num_experts": 8}


@_preset("widenet-text-e16", _TEXT)
def _widenet_text_e16() -> dict[str, Any]:
    """WideNet with 16 experts: 83M parameters, 85.8 on average (Table 2)."""
    return {**_BASE, "num_experts": 16}


def _small(depth: int, width: int, heads: int, hidden: int, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        **others,
    }


_TINY = _small(12, 192, 3, 768, image_size=224, patch_size=16, num_labels=1000)
_MINI = _small(6, 192, 6, 384, image_size=28, patch_size=7, num_labels=10)
_DIGITS = _small(4, 96, 4, 192, image_size=8, patch_size=2, num_labels=10)


_TEXT_MINI = _small(6, 256, 4, 512, vocab_size=8000, embedding_size=128, max_position_embeddings=512)
_TEXT_TINY = _small(2, 64, 4, 128, vocab_size=1000, embedding_size=32, max_position_embeddings=128)


def _small_images(suffix: str, shape: dict[str, Any], last_blocks: list[int]) -> None:
    """Register a WideNet with the ViT and the ViT-MoE of the same depth and width, as Table 1 pairs them."""
    moe = {"moe_layers": last_blocks, "pooling": "mean"}
    _preset(f"widenet-{suffix}")(lambda: dict(shape))
    _preset(f"vit-{suffix}")(lambda: {**shape, **_VIT})
    _preset(f"vit-moe-{suffix}")(lambda: {**shape, **_VIT, **moe})


def _small_texts(suffix: str, shape: dict[str, Any]) -> None:
    """Register a WideNet with the ALBERT and the BERT of the same depth, width and activation, as Table 2."""
    _preset(f"widenet-text-{suffix}", _TEXT)(lambda: dict(shape))
    _preset(f"albert-{suffix}", _TEXT)(lambda: {**shape, **_ALBERT})
    _preset(f"bert-{suffix}", _TEXT)(lambda: {**shape, **_UNSHARED})


# Ours, for small machines: 224-pixel images, 28-pixel images, and the 8-pixel digits.
_small_images("ti16", _TINY, [10, 11])
_small_images("mini", _MINI, [4, 5])
_small_images("digits", _DIGITS, [2, 3])
# Text that two cores pretrain in about an hour, and text for tests.
_small_texts("mini", _TEXT_MINI)
_small_texts("tiny", _TEXT_TINY)


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
    config_class, preset = _find(name)
    fields = preset()
    if "id2label" in overrides:  # names count the classes; the preset's number is its paper's
        fields.pop("num_labels", None)
    return build_config(config_class, {**fields, **overrides})


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


def _find(name: str) -> tuple[type[WideNetConfig], Fields]:
    if name not in _PRESETS:
        raise unknown("preset", name, _PRESETS)
    return _PRESETS[name]
