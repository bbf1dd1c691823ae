"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Any value of the recipe by its dotted name, or data=, model=, seed=, epochs=, lr=. "
        "`widenet recipes NAME` lists them.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run or model folder.")]
