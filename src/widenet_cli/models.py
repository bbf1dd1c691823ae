"""What there is: models and recipes."""

from typing import Annotated

import typer

from widenet_cli.options import Json
from widenet_cli.show import print_json, print_notes, print_table


def models(
    json_: Json = False,
    paper: Annotated[bool, typer.Option("--paper", help="List every row of the paper's Tables 1 to 5.")] = False,
) -> None:
    """List the presets: parameters, published figures, FLOPs."""
    from widenet.models.tables import describe_paper, describe_presets

    print_table(describe_paper() if paper else describe_presets(), json_)


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A recipe, or a YAML file: list every key it has.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the recipes, or every key of one with its meaning."""
    if name is not None:
        from widenet.recipes.reference import describe_recipe, to_yaml

        rows = describe_recipe(name)
        if json_:
            return print_json(rows)
        return print_notes((f"{row['key']}={to_yaml(row['value'])}", row["type"], row["meaning"]) for row in rows)
    from widenet.recipes import list_recipes, load_recipe

    found = [load_recipe(each) for each in list_recipes()]
    print_table([{"recipe": r.name, "model": r.model.name, "description": r.description} for r in found], json_)
