"""What every recipe holds; a task's own file says what its ``data`` and ``training`` hold, and what else there is."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from widenet.data.section import (
    PLACE,
    AtLeastOne,
    AtLeastZero,
    Count,
    DataSection,
    Place,
    Probability,
    Section,
    Share,
    has_mark,
)


class TrainingSection(Section):
    """Optimiser, schedule, regularisation and hardware."""

    epochs: Annotated[float, Field(gt=0)]
    """Passes over the training examples."""
    max_steps: Count = 0
    """Optimiser steps after which to stop, whatever epochs says; 0: epochs decide."""
    batch_size: AtLeastOne = 128
    """Examples of a training batch."""
    gradient_accumulation_steps: AtLeastOne = 1
    """Batches whose gradients are summed before each optimiser step."""
    eval_batch_size: AtLeastOne = 256
    """Examples of a batch in validation and testing."""
    eval_steps: Count = 0
    """Optimiser steps between validations, each with a checkpoint; 0: once an epoch."""
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    """Optimiser."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate, reached after warmup."""
    weight_decay: AtLeastZero = 0.05
    """Weight decay of matrices; biases and norms have none."""
    momentum: Probability = 0.9
    """Momentum of SGD."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the two moments of AdamW and LAMB."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warmup."""
    warmup_epochs: AtLeastZero = 0.0
    """Epochs over which the learning rate rises from 0."""
    warmup_steps: Count = 0
    """Optimiser steps over which the learning rate rises from 0, instead of warmup_epochs."""
    max_grad_norm: AtLeastZero = 1.0
    """Norm that gradients are clipped to; 0: no clipping."""
    early_stopping_patience: Count = 0
    """Validations without improvement after which training stops; 0: never."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the matrix products; weights stay fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU where there is one."""
    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """Checkpoints that are kept, the best and the last among them."""


class ModelSection(BaseModel):
    """A preset or a model folder to start from, and any config field as an override."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, use_attribute_docstrings=True)

    name: Place | None
    """A preset, or the folder of a model to start from; null: the user must say."""

    @property
    def overrides(self) -> dict[str, Any]:
        """The config fields given besides the name."""
        return dict(self.model_extra or {})


class Recipe(Section):
    """One experiment, validated."""

    name: str
    """What the recipe is called."""
    description: str = ""
    """What it does, in a line."""
    task: str
    """What is trained."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Settles the weights at the start, the order of the examples, augmentation and dropout."""
    data: DataSection
    """Where the examples come from."""
    model: ModelSection
    """What is trained."""
    training: TrainingSection
    """How it is trained."""

    def dump(self) -> str:
        """Return the recipe as YAML with every value that is in force."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def paths(self) -> dict[str, str]:
        """Return every value that may name a file or folder, by its dotted key."""
        return dict(_places(self, ""))

    def with_absolute_paths(self) -> "Recipe":
        """Return the recipe with those of its files and folders that exist named from the root.

        So it means the same wherever it is read again.
        """
        values = self.model_dump()
        for key, value in self.paths().items():
            if Path(value).expanduser().exists():
                *sections, leaf = key.split(".")
                target = values
                for section in sections:
                    target = target[section]
                target[leaf] = os.path.abspath(Path(value).expanduser())
        return type(self).model_validate(values)


RECIPES: dict[str, type[Recipe]] = {}  # by task; each task registers its own


def register_recipe(task: str, recipe_class: type[Recipe]) -> None:
    """Make known what the recipes of a task hold."""
    RECIPES[task] = recipe_class


def _places(section: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _places(value, f"{prefix}{name}.")
        elif value is not None and has_mark(field, PLACE):
            yield f"{prefix}{name}", str(value)
