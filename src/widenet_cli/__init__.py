"""The command line: parse, call, print. A module per group of commands.

It lives beside the package, not in it, because importing ``widenet`` registers models with transformers
and so loads PyTorch; ``widenet --help`` must not wait for that. Commands import what they need.
"""

import sys
from typing import Annotated

import typer

from widenet_cli import convert, models, runs, train
from widenet_cli.show import EXIT_INTERRUPTED, EXIT_USER_ERROR, stop

app = typer.Typer(
    name="widenet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it takes [brackets] in a help text for markup, and costs as much time as all the rest
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(models.models, models.recipes, train.train, runs.evaluate, runs.predict, runs.compare, runs.report),
    *(convert.widen, convert.export),
):
    app.command()(command)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"widenet {version('widenet')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """WideNet: transformers that go wider instead of deeper. Train, evaluate and use them."""


def main() -> None:
    """Run a command; a user's mistake becomes one line and exit code 2."""
    try:
        code = app(prog_name="widenet", standalone_mode=False)
    except ValueError as error:
        from widenet.errors import WideNetError

        if not isinstance(error, WideNetError):
            raise
        stop(str(error), EXIT_USER_ERROR)
    except Exception as error:
        # What the command line itself refuses. Its exceptions moved from click into typer, so by what they can do.
        if type(error).__name__ == "Abort":
            stop("interrupted", EXIT_INTERRUPTED)
        if not hasattr(error, "format_message"):
            raise
        if not (message := error.format_message().strip()):  # no arguments: the help has been shown
            sys.exit(EXIT_USER_ERROR)
        stop(" ".join(message.split()), EXIT_USER_ERROR)
    sys.exit(code if isinstance(code, int) else 0)
