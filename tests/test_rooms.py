"""The rooms of ``docs/code.md``: imports go downwards, and what a thing is stands in one of them."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from widenet.tasks import TASKS

SRC = Path(__file__).parent.parent / "src"
# Each may import from those before it, and from itself.
ROOMS = (
    *(
        "errors",
        "files",
        "config",
        "nn",
        "models",
        "convert",
        "data",
        "recipes",
        "tasks",
        "runs",
        "reports",
        "training",
    ),
)
FILES = sorted((SRC / "widenet").rglob("*.py"))
# Contents and registration; every room's __init__ is the room's own.
EVERYTHING = SRC / "widenet/__init__.py"


def room_of(module: str) -> str:
    return module.split(".")[1]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "widenet")


@pytest.mark.parametrize("file", [file for file in FILES if file != EVERYTHING], ids=lambda file: str(file)[-40:])
def test_imports_go_downwards(file: Path) -> None:
    here = room_of(".".join(file.relative_to(SRC).with_suffix("").parts))
    for module in imported(ast.parse(file.read_text(encoding="utf-8"))):
        if module.startswith("widenet."):
            there = room_of(module)
            assert there == "__version__" or ROOMS.index(there) <= ROOMS.index(here), f"{here} imports {module}"


def test_every_room_is_known() -> None:
    assert {room_of(".".join(file.relative_to(SRC).with_suffix("").parts)) for file in FILES} == {*ROOMS, "__init__"}


def test_no_two_functions_of_one_name_in_two_rooms() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].add(room_of(".".join(file.relative_to(SRC).with_suffix("").parts)))
    assert {name: rooms for name, rooms in places.items() if len(rooms) > 1} == {}


@pytest.mark.parametrize("name", [name for name in TASKS if "-" in name and name != "image-regression"])
def test_the_name_of_a_task_stands_in_its_own_file(name: str) -> None:
    found = [file for file in SRC.rglob("*.py") if name in file.read_text(encoding="utf-8")]
    assert [file.parent.name for file in found] == ["tasks"], found
