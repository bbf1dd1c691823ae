"""What there is: models and recipes."""

from typing import Annotated

import typer

from widenet_cli.options import Json
from widenet_cli.show import print_table


def models(
    json_: Json = False,
    paper: Annotated[bool, typer.Option("--paper", help="List every row of the paper's Tables 1 to 5.")] = False,
) -> None:
    """List the presets: parameters, published figures, FLOPs."""
    from widenet.models.tables import describe_paper, describe_presets

    print_table(describe_paper() if paper else describe_presets(), json_)


def recipes(json_: Json = False) -> None:
    """List what can be trained."""
    from widenet.recipes import list_recipes, load_recipe

    found = [load_recipe(name) for name in list_recipes()]
    print_table([{"recipe": r.name, "model": r.model.name, "description": r.description} for r in found], json_)
