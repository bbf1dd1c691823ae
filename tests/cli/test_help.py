"""What the command line says of itself: help, version, completion."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer.main

import widenet_cli
from widenet import __version__

COMMANDS: dict[str, Any] = typer.main.get_command(widenet_cli.app).commands  # type: ignore[attr-defined]
Command = Callable[..., Any]  # the fixture `widenet` of conftest.py


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_takes_a_value_shows_its_default(widenet: Command, name: str) -> None:
    shown = " ".join(widenet(name, "--help").out.split())
    valued = [
        option
        for option in COMMANDS[name].params
        if option.param_type_name == "option" and not (option.is_flag and not option.secondary_opts)
    ]
    assert shown.count("[default: ") + shown.count("[required]") >= len(valued)
    for option in valued:
        _, text = option.get_help_record(typer.Context(COMMANDS[name]))
        assert "[default: " in text or "[required]" in text, option.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_and_command_has_a_help_text_that_fits(widenet: Command, name: str) -> None:
    assert all(parameter.help for parameter in COMMANDS[name].params)
    line = next(line for line in widenet("--help").out.splitlines() if line.strip().startswith(f"{name} "))
    assert not line.endswith("...")


def test_brackets_of_a_help_text_are_shown(widenet: Command) -> None:
    assert "[MASK]" in widenet("predict", "--help").out
    assert "[default: (runs/RECIPE)]" in widenet("train", "--help").out


def test_version(widenet: Command) -> None:
    shown = widenet("--version")
    assert (shown.code, shown.out, shown.err) == (0, f"widenet {__version__}\n", "")


@pytest.mark.parametrize("words", [["--version"], ["train", "--help"], ["recipes", "-h"], ["--show-completion"]])
def test_what_needs_no_model_loads_no_library(words: list[str]) -> None:
    program = (
        f"import sys; sys.argv = ['widenet', *{words!r}]\n"
        "import widenet_cli\n"
        "try: widenet_cli.main()\n"
        "except SystemExit: pass\n"
        "loaded = {'torch', 'transformers', 'numpy', 'timm', 'widenet', 'rich'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("widenet tr", "train"), ("widenet train --see", "--seeds"), ("widenet widen x --gr", "--group-size")],
)
def test_completion(words: str, expected: str) -> None:
    asked = {"_WIDENET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "widenet_cli"], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [expected]
