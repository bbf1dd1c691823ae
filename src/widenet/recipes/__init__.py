"""Recipes: one YAML file per experiment, every value reachable by its dotted name.

A recipe has four sections: top level, ``data``, ``model`` and ``training``. ``key=value`` overrides use the
dotted names (``training.epochs=3``, ``model.num_experts=8``); ``data=``, ``model=``, ``seed=`` and ``epochs=``
are short for ``data.source``, ``model.name``, ``seed`` and ``training.epochs``.
"""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from widenet.errors import WideNetError, unknown

SHORT_KEYS = {"data": "data.source", "model": "model.name", "epochs": "training.epochs"}

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
AtLeastZero = Annotated[float, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


# What timm's policies understand; it skips the sections that it does not know.
AUTO_AUGMENT = (
    r"^(rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?|-t[a-z]+)*|augmix(-(m|w|d|a|b|mstd)\d+(\.\d+)?)*"
    r"|(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?)$"
)


def _ascending(area: tuple[float, float]) -> tuple[float, float]:
    if area[0] > area[1]:
        raise PydanticCustomError("order", "the smaller fraction must come first")
    return area


CropArea = Annotated[tuple[Fraction, Annotated[float, Field(gt=0, le=1)]], AfterValidator(_ascending)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Augmentation(_Section):
    """What training images go through; everything off by default.

    The first six work on the whole batch as one tensor and cost next to nothing. The others decode and
    transform image by image, with timm's transforms.
    """

    warp: Probability = 1.0  # probability that an image is shifted, rotated and zoomed at all
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0  # up to this fraction of the side, in x and y
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # up to so many degrees, either way
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0  # side scaled by 1 ± this
    flip: Probability = 0.0  # probability of a left-right flip
    erase: Probability = 0.0  # probability that a random rectangle becomes noise
    crop_area: CropArea | None = None  # random-resized crop
    auto_augment: Annotated[str, Field(pattern=AUTO_AUGMENT)] | None = None  # timm's policy, e.g. rand-m9-mstd0.5
    color_jitter: AtLeastZero = 0.0  # timm leaves it out beside auto_augment

    @property
    def per_image(self) -> bool:
        """Whether images must be decoded one by one."""
        return bool(self.crop_area or self.auto_augment or self.color_jitter)


class DataSection(_Section):
    """Where the images come from and how they are split."""

    source: str | None  # None: the user must name one
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.2
    split_seed: int = 0
    cache_dir: str | None = None
    check_files: bool = True
    skip_bad_files: bool = False
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # centre crop at evaluation
    num_workers: Annotated[int, Field(ge=0)] = 0
    augment: Augmentation = Augmentation()


class TrainingSection(_Section):
    """Optimiser, schedule, regularisation and hardware."""

    epochs: Annotated[float, Field(gt=0)]
    batch_size: AtLeastOne = 128
    gradient_accumulation_steps: AtLeastOne = 1
    eval_batch_size: AtLeastOne = 256
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: AtLeastZero = 0.05
    momentum: Probability = 0.9  # SGD only
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # AdamW and LAMB only
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_epochs: AtLeastZero = 0.0
    max_grad_norm: AtLeastZero = 1.0  # 0: no clipping
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: AtLeastZero = 0.0  # α of the Beta distribution
    cutmix: AtLeastZero = 0.0
    early_stopping_patience: Annotated[int, Field(ge=0)] = 0  # epochs without improvement; 0: never stop
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    device: Literal["auto", "cpu"] = "auto"
    save_total_limit: Annotated[int, Field(ge=2)] = 2


class ModelSection(BaseModel):
    """A preset or a model folder to start from, and any config field as an override."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str | None  # None: the user must name one

    @property
    def overrides(self) -> dict[str, Any]:
        """The config fields given besides the name."""
        return dict(self.model_extra or {})


class Recipe(_Section):
    """One experiment, validated."""

    name: str
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: DataSection
    model: ModelSection
    training: TrainingSection

    def dump(self) -> str:
        """Return the recipe as YAML with every value that is in force."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def list_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    files = resources.files("widenet").joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe by name or from a YAML file and apply ``key=value`` overrides.

    Raises:
        WideNetError: no such recipe or key, or a value has the wrong type or is out of range.
    """
    if name in list_recipes():
        text = resources.files("widenet").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")
    elif name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WideNetError(f"recipe file {name} cannot be read: {error}") from error
    else:
        raise unknown("recipe", name, list_recipes())
    return build_recipe(parse_yaml(text, name), overrides)


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """Return the mapping in a recipe file.

    Raises:
        WideNetError: it is not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WideNetError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise WideNetError(f"{origin} is not a recipe: it must be a mapping with the keys data, model, training")
    return values


def build_recipe(values: dict[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Validate a recipe's values with ``key=value`` overrides applied.

    Raises:
        WideNetError: as :func:`load_recipe`.
    """
    for override in overrides:
        key, value = _parse_override(override)
        *sections, leaf = key.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise WideNetError(f"{key}: {section} is a value, not a section")
        if isinstance(target.get(leaf), dict):
            raise WideNetError(f"{key} is a section; set one of its values: {key}.{next(iter(target[leaf]), '…')}=…")
        target[leaf] = value
    try:
        # Validated as JSON, where strict mode still takes a list for a tuple and an int for a float.
        return Recipe.model_validate_json(_as_json(values))
    except ValidationError as error:
        raise _one_line(error) from error


def recipe_keys() -> list[str]:
    """Return every dotted key, except the model's config fields."""
    return ["model.name", *_keys(Recipe, "")]


def _keys(section: type[BaseModel], prefix: str) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section):
            keys += _keys(field.annotation, f"{prefix}{name}.")
        elif field.annotation is not ModelSection:
            keys.append(f"{prefix}{name}")
    return keys


def _parse_override(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise WideNetError(f"{override!r} is not of the form key=value")
    key = SHORT_KEYS.get(key, key)
    if not key.startswith("model.") and key not in recipe_keys():
        raise unknown("key", key, [*SHORT_KEYS, *recipe_keys(), "model.<config field>"])
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WideNetError(f"{override!r}: the value is not valid YAML") from error
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML 1.1 reads 1e-3 as text
    if isinstance(value, float) and not math.isfinite(value):
        raise WideNetError(f"{key}={text}: input should be a finite number")
    if key in ("data.source", "model.name", "name", "data.cache_dir") and value is not None:
        value = text  # a folder called 2024 is not a number
    return key, value


def _as_json(values: dict[str, Any]) -> str:
    try:
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WideNetError(f"the recipe holds a value that is not plain YAML: {error}") from error


def _one_line(error: ValidationError) -> WideNetError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown("key", key, recipe_keys())
    if first["type"] == "missing":
        return WideNetError(f"the recipe lacks {key}")
    return WideNetError(f"{key}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}")
