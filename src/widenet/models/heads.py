"""Heads: which model class serves which task, by name, for each configuration class.

The one place that knows. ``create_model``, conversions, folders and cards ask it, and transformers' Auto classes are
told by it. Heads that are no task are registered beside their classes; a task registers its own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from widenet.config import WideNetConfig
from widenet.errors import WideNetError, unknown

if TYPE_CHECKING:  # the models import this module, to register themselves
    from widenet.models.pretrained import WideNetPreTrainedModel


@dataclass(frozen=True)
class Head:
    """A model class by the name of what it does.

    Attributes:
        name: as ``task=`` takes it.
        model_class: the encoder with this head, or without any.
        pipeline: the hub's tag for what the model does; None where the hub has none.
        default: a model has this head where none is asked for.
    """

    name: str
    model_class: "type[WideNetPreTrainedModel]"
    pipeline: str | None = None
    default: bool = False


_HEADS: dict[type[WideNetConfig], dict[str, Head]] = {}  # filled at import


def register_head(
    name: str,
    model_class: "type[WideNetPreTrainedModel]",
    *,
    pipeline: str | None = None,
    auto_class: Any = None,
    default: bool = False,
) -> None:
    """Make a model class known by a name among those of its configuration class; twice is the same as once.

    Args:
        name: as ``task=`` takes it, for example "features".
        model_class: its ``config_class`` says what it reads.
        pipeline: the hub's tag for what the model does.
        auto_class: the Auto class of transformers that loads it, for example ``AutoModel``.
        default: a model of this configuration has this head where none is asked for.

    Raises:
        WideNetError: the name belongs to another class, the class has another name, or another is the default.
    """
    config_class, head = model_class.config_class, Head(name, model_class, pipeline, default)
    for other in _HEADS.get(config_class, {}).values():
        same_class = other.model_class.__name__ == model_class.__name__
        if other != head and (other.name == name or same_class or (default and other.default)):
            raise WideNetError(f"{head} cannot be registered for {config_class.__name__}, which has {other}")
    if auto_class is not None:
        auto_class.register(config_class, model_class, exist_ok=True)
    _HEADS.setdefault(config_class, {})[name] = head


def heads_of(config_class: type[WideNetConfig]) -> dict[str, Head]:
    """Return the heads of a configuration class by name, the default first.

    Raises:
        WideNetError: it has none.
    """
    if config_class not in _HEADS:
        raise unknown("configuration class", config_class.__name__, [known.__name__ for known in _HEADS])
    return dict(sorted(_HEADS[config_class].items(), key=lambda item: not item[1].default))


def head_of(model_class: type | str) -> Head | None:
    """Return the head that a model class, or the name of one, is registered as; None where it is not."""
    heads = [head for heads in _HEADS.values() for head in heads.values()]
    return next((head for head in heads if model_class in (head.model_class, head.model_class.__name__)), None)


def config_classes() -> dict[str, type[WideNetConfig]]:
    """Return every configuration class that has heads, by its ``model_type``."""
    return {config_class.model_type: config_class for config_class in _HEADS}
