"""The reference of recipes: every key, with its value, default, type and meaning."""

from pathlib import Path
from typing import Any

import pytest

from widenet import WideNetTextConfig, WideNetVisionConfig
from widenet.errors import WideNetError
from widenet.models.presets import create_config, own_fields
from widenet.recipes import list_recipes, load_recipe, recipe_keys
from widenet.recipes.reference import describe_recipe, parse_arguments, to_yaml, write_page

PAGE = Path(__file__).parent.parent.parent / "docs/recipes.md"


def rows_of(name: str) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in describe_recipe(name)}


@pytest.mark.parametrize("name", list_recipes())
def test_every_key_is_there_and_has_a_meaning(name: str) -> None:
    recipe, rows = load_recipe(name), rows_of(name)
    assert {key for key in rows if not key.startswith("model.")} | {"model.name"} == {
        *recipe_keys(type(recipe)),
        "task",
    }
    kind = WideNetVisionConfig if "image" in recipe.task else WideNetTextConfig
    assert {key for key in rows if key.startswith("model.")} == {
        "model.name",
        *(f"model.{field}" for field in own_fields(kind)),
    }
    for row in rows.values():
        assert row["meaning"] and "\n" not in row["meaning"], row["key"]
        assert row["type"], row["key"]


def test_the_values_are_the_recipe_s() -> None:
    rows, recipe = rows_of("digits"), load_recipe("digits")
    assert recipe.model.name is not None
    config = create_config(recipe.model.name, **recipe.model.overrides)
    assert (rows["training.epochs"]["value"], rows["training.epochs"]["default"]) == (75, None)
    assert (rows["data.augment.zoom"]["value"], rows["data.augment.zoom"]["default"]) == (0.15, 0)
    assert rows["training.betas"]["value"] == [0.9, 0.999]
    for field in own_fields(WideNetVisionConfig):
        assert rows[f"model.{field}"]["value"] == getattr(config, field)
    assert (rows["model.image_size"]["value"], rows["model.image_size"]["default"]) == (16, 224)
    # a model that is still to be named: what the recipe changes, and otherwise the defaults
    assert rows_of("squad1")["model.capacity_factor"]["value"] == 2.0
    assert rows_of("squad1")["model.layer_norm_eps"]["value"] == 1e-12


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("seed", "0 ≤ integer < 4294967296"),
        ("data.cache_dir", "text | null"),
        ("data.test_fraction", "0 < number < 1"),
        ("data.check_files", "true | false"),
        ("data.augment.crop_area", "[0 < number < 1, 0 < number ≤ 1] | null"),
        ("training.optimizer", "adamw | lamb | sgd"),
        ("training.batch_size", "integer ≥ 1"),
        ("training.learning_rate", "number > 0"),
        ("model.moe_layers", "text | list of integer"),
        ("model.capacity_factor", "number | null"),
    ],
)
def test_types_are_words(key: str, expected: str) -> None:
    assert rows_of("digits")[key]["type"] == expected


def test_meanings_are_in_the_words_of_yaml() -> None:
    assert rows_of("digits")["model.share_router"]["meaning"].endswith("null follows `share_ffn`.")


def test_arguments_of_a_docstring() -> None:
    text = """Do something.

    Args:
        first: one line.
        second: two
            lines: joined.

    Raises:
        Error: never.
    """
    assert parse_arguments(text) == {"first": "one line.", "second": "two lines: joined."}
    assert parse_arguments("No arguments.") == {}


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), ([0.9, 1], "[0.9, 1]"), ("a: b", "'a: b'")]
)
def test_values_as_a_recipe_has_them(value: Any, text: str) -> None:
    assert to_yaml(value) == text


def test_a_recipe_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(load_recipe("digits", ["epochs=3", "name=mine", "model=./some-folder"]).dump(), encoding="utf-8")
    rows = rows_of(str(file))
    assert (rows["name"]["value"], rows["training.epochs"]["value"]) == ("mine", 3)
    assert rows["model.patch_size"]["value"] == 4
    with pytest.raises(WideNetError, match="did you mean 'digits'"):
        describe_recipe("digit")


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "run `make reference`"
