"""Sections of a recipe: the values that a key may have, what it means, and what all ``data`` sections share."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

PLACE = "place"  # marks what may be the path of a file or folder
Place = Annotated[str, PLACE]

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
AtLeastZero = Annotated[float, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Values that are checked, complete and fixed. The line under a field is its description."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class DataSection(Section):
    """Where the examples come from and how they are split."""

    source: Place | None
    """Where the examples come from; null: the user must say."""
    validation_fraction: Fraction = 0.1
    """Share of the training examples, less those held out for testing, that picks the checkpoint."""
    test_fraction: Fraction = 0.2
    """Share of the training examples held out for testing, where the source has no test part."""
    split_seed: int = 0
    """Settles which examples are held out."""
    cache_dir: Place | None = None
    """Folder for downloads and tokenised corpora; null: ~/.cache/widenet, and for the Hugging Face hub its own."""
    num_workers: Count = 0
    """Processes that prepare batches; 0: the training process itself."""


def has_mark(field: FieldInfo, mark: str) -> bool:
    """Whether a field's type, or one of those it may have, is annotated with a mark."""
    kinds = get_args(field.annotation)
    return mark in field.metadata or any(mark in getattr(kind, "__metadata__", ()) for kind in kinds)


def takes_text(field: FieldInfo) -> bool:
    """Whether a field holds text and no numbers."""
    kinds = [_bare(kind) for kind in get_args(field.annotation) or [field.annotation]]
    return str in kinds and not {int, float} & set(kinds)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
