"""Recipes: one YAML file per experiment, every value reachable by its dotted name.

A recipe has four sections: top level, ``data``, ``model`` and ``training``; its ``task`` says what ``data`` and
``training`` may hold, and whether there are more (``schema.py``). ``key=value`` overrides use the
dotted names (``training.epochs=3``, ``model.num_experts=8``); ``data=``, ``model=``, ``epochs=`` and ``lr=`` are
short for ``data.source``, ``model.name``, ``training.epochs`` and ``training.learning_rate``. ``reference.py`` says
what every key means.
"""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.data.images.section import ImagesSection
from widenet.data.section import Section, takes_text
from widenet.data.text.tokenizer import TextSection
from widenet.errors import WideNetError, unknown
from widenet.models.presets import own_fields
from widenet.recipes.schema import RECIPES, ModelSection, Recipe, TrainingSection, register_recipe

__all__ = [
    "RECIPES",
    "ModelSection",
    "Recipe",
    "TrainingSection",
    "build_recipe",
    "config_class",
    "list_recipes",
    "load_recipe",
    "parse_yaml",
    "recipe_keys",
    "register_recipe",
]

SHORT_KEYS = {
    "data": "data.source",
    "model": "model.name",
    "epochs": "training.epochs",
    "lr": "training.learning_rate",
}


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
    values = deepcopy(values)  # overrides must not reach the caller's
    if "task" not in values:
        raise WideNetError(f"the recipe lacks task, one of {', '.join(RECIPES)}")
    kind = _recipe_class(values["task"])
    for override in overrides:
        key, value = _parse_override(override, kind)
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
        return kind.model_validate_json(_as_json(values))
    except ValidationError as error:
        raise _one_line(error, kind) from error


def recipe_keys(kind: type[Recipe]) -> list[str]:
    """Return every dotted key of a kind of recipe, except the model's config fields and the task itself."""
    return ["model.name", *_keys(kind, "")]


def config_class(kind: type[Recipe]) -> type[WideNetConfig]:
    """Return the configuration of the models that a kind of recipe trains, of which ``model.`` names the fields."""
    data = kind.model_fields["data"].annotation
    for section, config in ((TextSection, WideNetTextConfig), (ImagesSection, WideNetVisionConfig)):
        if isinstance(data, type) and issubclass(data, section):
            return config
    return WideNetConfig


def _known_keys(kind: type[Recipe]) -> list[str]:
    return [*SHORT_KEYS, *recipe_keys(kind), *(f"model.{field}" for field in own_fields(config_class(kind)))]


def _recipe_class(task: Any) -> type[Recipe]:
    if task not in list(RECIPES):
        raise unknown("task", task, RECIPES)
    return RECIPES[task]


def _keys(section: type[BaseModel], prefix: str) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        if f"{prefix}{name}" == "task":
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += _keys(field.annotation, f"{prefix}{name}.")
        elif field.annotation is not ModelSection:
            keys.append(f"{prefix}{name}")
    return keys


def _is_text(kind: type[BaseModel], key: str) -> bool:
    """Whether a value of a key is a text whatever it looks like: a folder called 2024 is not a number."""
    first, _, rest = key.partition(".")
    field = kind.model_fields.get(first)
    if field is None:  # of the model's configuration
        return False
    if not rest:
        return takes_text(field)
    inner = field.annotation
    return isinstance(inner, type) and issubclass(inner, BaseModel) and _is_text(inner, rest)


def _parse_override(override: str, kind: type[Recipe]) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise WideNetError(f"{override!r} is not of the form key=value")
    key = SHORT_KEYS.get(key, key)
    if not key.startswith("model.") and key not in recipe_keys(kind):
        raise unknown("key", key, _known_keys(kind))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WideNetError(f"{override!r}: the value is not valid YAML") from error
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML 1.1 reads 1e-3 as text
    if isinstance(value, float) and not math.isfinite(value):
        raise WideNetError(f"{key}={text}: input should be a finite number")
    if value is not None and _is_text(kind, key):
        value = text
    return key, value


def _as_json(values: dict[str, Any]) -> str:
    try:
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WideNetError(f"the recipe holds a value that is not plain YAML: {error}") from error


def _one_line(error: ValidationError, kind: type[Recipe]) -> WideNetError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown("key", key, _known_keys(kind))
    if first["type"] == "missing":
        return WideNetError(f"the recipe lacks {key}")
    return WideNetError(f"{key}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}")
