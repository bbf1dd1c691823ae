"""What is published: the metadata, and an API reference that leaves nothing public out."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import widenet

ROOT = Path(__file__).parent.parent
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs/api").glob("*.md"))}
TARGETS = {target: page for page, text in PAGES.items() for target in re.findall(r"^::: (\S+)", text, re.MULTILINE)}


def test_every_public_name_is_in_the_reference() -> None:
    assert {f"widenet.{name}" for name in widenet.__all__ if name != "__version__"} <= TARGETS.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_the_reference_names_what_exists(target: str) -> None:
    try:
        importlib.import_module(target)
    except ModuleNotFoundError:
        module, _, name = target.rpartition(".")
        assert getattr(importlib.import_module(module), name).__doc__


def test_every_page_of_the_reference_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"api/{page}\n" in navigation for page in PAGES)


def test_types_are_published() -> None:
    assert (Path(widenet.__file__).parent / "py.typed").exists()


def test_every_extra_is_part_of_dev() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (everything,) = (need for need in extras["dev"] if need.startswith("widenet["))
    assert set(re.findall(r"\w+", everything)) == {"widenet", *extras} - {"dev"}
