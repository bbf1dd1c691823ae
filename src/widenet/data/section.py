"""Sections of a recipe: the values that a key may have, what it means, and what all ``data`` sections share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

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

    source: str | None
    """Where the examples come from; null: the user must say."""
    validation_fraction: Fraction = 0.1
    """Share of the training examples, less those held out for testing, that picks the checkpoint."""
    test_fraction: Fraction = 0.2
    """Share of the training examples held out for testing, where the source has no test part."""
    split_seed: int = 0
    """Settles which examples are held out."""
    cache_dir: str | None = None
    """Folder for downloads and tokenised corpora; null: ~/.cache/widenet, and for the Hugging Face hub its own."""
    num_workers: Count = 0
    """Processes that prepare batches; 0: the training process itself."""
