"""What a recipe may hold, in words: every key with its value, default, type and meaning.

The meaning of a section's field is its docstring; that of a config field, ``model.<field>``, is its line under "Args"
in the docstring of the configuration. ``python -m widenet.recipes.reference`` prints the page of all recipes.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter

from widenet.config import WideNetConfig
from widenet.models.presets import create_config, list_models, own_fields
from widenet.recipes import Recipe, config_class, list_recipes, load_recipe

Row = dict[str, Any]
LOWER, UPPER = {"minimum": "≤", "exclusiveMinimum": "<"}, {"maximum": "≤", "exclusiveMaximum": "<"}
TURNED = str.maketrans("≤<", "≥>")
IN_YAML = {"None": "null", "True": "true", "False": "false"}
NAMES = {"string": "text", "boolean": "true | false", "array": "list", "object": "mapping"}
HEAD = """# Recipes

A recipe is a YAML file with every value of an experiment. `widenet train NAME key=value ...` changes values by their
dotted names; `data=`, `model=`, `epochs=` and `lr=` are short for `data.source`, `model.name`, `training.epochs` and
`training.learning_rate`. `widenet recipes NAME` shows the values of one recipe.

The defaults below hold where neither the command line nor the recipe gives a value; for `model.` keys, where the
preset gives none either. `make reference` writes this page.
"""


def describe_recipe(name: str) -> list[Row]:
    """Return a row for every key of a recipe, in the order of its file, config fields of the model included.

    Args:
        name: a recipe's name, or a YAML file.

    Returns:
        Rows of ``key``, ``value`` (the recipe's own; for a config field that neither recipe nor preset sets, and for
        one of a model that is still to be named, the default), ``default`` (None also where there is none),
        ``type`` (with what is allowed) and ``meaning``.

    Raises:
        WideNetError: no such recipe, or it is not valid.
    """
    recipe = load_recipe(name)
    return list(_describe_section(recipe, "", recipe))


def parse_arguments(docstring: str) -> dict[str, str]:
    """Return what a docstring says under "Args", by the argument's name, each as one line."""
    _, _, block = inspect.cleandoc(docstring).partition("Args:\n")
    found: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if line and not line.startswith(" "):  # the next heading
            break
        if match := re.match(r" {4}(\w+): (.*)", line):
            name, found[match[1]] = match[1], match[2]
        elif line.strip():
            found[name] += f" {line.strip()}"
    return found


def to_yaml(value: Any) -> str:
    """Return a value as it stands in a recipe."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return str(text).split("\n")[0]


def write_page() -> str:
    """Return the page of all recipes and keys, in Markdown."""
    recipes = [load_recipe(name) for name in list_recipes()]
    lines = [HEAD, _line("recipe", "task", "model", "what for"), "|---|---|---|---|"]
    lines += [_line(f"`{r.name}`", r.task, f"`{r.model.name or 'model=FOLDER'}`", r.description) for r in recipes]
    # A table for each set of tasks that have the same keys, so that no key is explained twice.
    tasks_of: dict[str, list[str]] = {}
    of_tasks = {recipe.task: recipe for recipe in recipes}
    for task, recipe in of_tasks.items():
        for row in describe_recipe(recipe.name):
            required = row["default"] is None and "null" not in row["type"]
            default = "required" if required else f"`{to_yaml(row['default'])}`"
            if row["key"] != "task":
                line = _line(f"`{row['key']}`", default, row["type"], row["meaning"])
                tasks_of.setdefault(line, []).append(task)
    for tasks in sorted({tuple(tasks): None for tasks in tasks_of.values()}, key=len, reverse=True):
        title = "every task" if len(tasks) == len(of_tasks) else ", ".join(tasks)
        lines += ["", f"## Keys of {title}", "", _line("key", "default", "allowed", "meaning"), "|---|---|---|---|"]
        lines += [line for line, found in tasks_of.items() if tuple(found) == tasks]
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _describe_section(section: BaseModel, prefix: str, recipe: Recipe) -> Iterator[Row]:
    kind = type(section)
    schema = kind.model_json_schema()
    for name, field in kind.model_fields.items():
        key, value = f"{prefix}{name}", getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _describe_section(value, f"{key}.", recipe)
            continue
        yield {
            "key": key,
            "value": _plain(value),
            "default": None if field.is_required() else _plain(field.default),
            "type": _in_words(schema["properties"][name]),
            "meaning": _of_yaml(_description(kind, name)),
        }
    if prefix == "model.":
        yield from _describe_config(recipe)


def _describe_config(recipe: Recipe) -> Iterator[Row]:
    config: WideNetConfig | None = None
    kind = config_class(type(recipe))
    overrides = recipe.model.overrides
    if recipe.model.name in list_models():
        config = create_config(recipe.model.name, **overrides)
        kind = type(config)
    meanings: dict[str, str] = {}
    types: dict[str, Any] = {}
    for base in reversed(kind.__mro__):  # the common fields first
        if issubclass(base, WideNetConfig):
            meanings |= parse_arguments(base.__doc__ or "")
            types |= base.__annotations__
    types = {name: types[name] for name in types if name in own_fields(kind)}
    for name, annotation in types.items():
        default = getattr(kind, name)
        yield {
            "key": f"model.{name}",
            "value": overrides.get(name, default) if config is None else getattr(config, name),
            "default": default,
            "type": _in_words(TypeAdapter(annotation).json_schema()),
            "meaning": _of_yaml(meanings.get(name, "")),
        }


def _description(kind: type[BaseModel], name: str) -> str:
    """Return a field's docstring, or that of the field which it changes in a class below."""
    bases = [base for base in kind.__mro__ if issubclass(base, BaseModel) and name in base.model_fields]
    return next(filter(None, (base.model_fields[name].description for base in bases)), "")


def _of_yaml(meaning: str) -> str:
    """Return what a docstring says in the words of a recipe."""
    words = re.sub(r"\b(None|True|False)\b", lambda match: IN_YAML[match[0]], " ".join(meaning.split()))
    return words.replace("``", "`")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _in_words(schema: dict[str, Any]) -> str:
    """Return what a JSON schema allows, in a few words."""
    if "const" in schema or "enum" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "anyOf" in schema:
        words = list(dict.fromkeys(_in_words(each) for each in schema["anyOf"]))
        return " | ".join(word for word in words if word != "integer" or "number" not in words)
    kind = str(schema.get("type", "any value"))
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        inside = ", ".join(_in_words(each) for each in items)
        return f"[{inside}]" if "prefixItems" in schema else f"list of {inside}"
    name = NAMES.get(kind, kind)
    lower = [(sign, schema[key]) for key, sign in LOWER.items() if key in schema]
    upper = [f" {sign} {schema[key]:.15g}" for key, sign in UPPER.items() if key in schema]
    for sign, bound in lower:  # one at most
        name = f"{bound:.15g} {sign} {name}" if upper else f"{name} {sign.translate(TURNED)} {bound:.15g}"
    return name + "".join(upper)


if __name__ == "__main__":
    print(write_page(), end="")
