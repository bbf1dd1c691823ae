"""Training."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from widenet_cli.options import Json, Overrides
from widenet_cli.show import EXIT_INTERRUPTED, console, fail, print_json, quiet, seconds_as_text


def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A recipe's name or YAML file; with --resume a run folder."),
    ],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="The run folder.", show_default="runs/RECIPE")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
    seeds: Annotated[int, typer.Option(help="Train so many seeds, from seed= upwards, and report medians.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show recipe, sizes and the estimated time; train nothing.")
    ] = False,
    json_: Json = False,
) -> None:
    """Train a recipe into a run folder."""
    if dry_run:
        return _dry_run(recipe, overrides or [], json_)
    train_recipe(recipe, overrides or [], output, resume, overwrite, seeds, json_)


def _dry_run(name: str, overrides: list[str], as_json: bool) -> None:
    quiet()
    from widenet.recipes import load_recipe
    from widenet.training.dry_run import dry_run

    recipe = load_recipe(name, overrides)
    found = dry_run(recipe)
    if as_json:
        return print_json({"recipe": recipe.model_dump(mode="json"), **found})
    print(recipe.dump())
    for note in found["notes"]:
        print(note)
    model = found["model"]
    print(f"{model['active_parameters']:,} active parameters, {model['active_flops']:,} FLOPs for one input")
    print(
        f"{found['steps']:,} steps of {found['seconds_per_step']:.3f} s; with validation about "
        f"{seconds_as_text(found['seconds'])} on this machine"
    )


def train_recipe(
    name: str,
    overrides: list[str],
    output: Path | None,
    resume: bool = False,
    overwrite: bool = False,
    seeds: int = 1,
    as_json: bool = False,
) -> None:
    """Train a recipe into a folder, write its report and print what it reached."""
    quiet()
    from widenet.reports import write_report
    from widenet.runs.compare import as_text, headline_scores
    from widenet.runs.run import Run
    from widenet.tasks import find_task
    from widenet.training.run import Interrupted
    from widenet.training.run import train as train_once
    from widenet.training.seeds import train_seeds

    recipe, folder, seeds = _what(name, overrides, output, resume, seeds)
    how: dict[str, Any] = {
        "resume": resume,
        "overwrite": overwrite,
        "console": console(sys.stderr if as_json else None),
    }
    how["command"] = shlex.join(["widenet", *sys.argv[1:]])
    try:
        metrics = train_once(recipe, folder, **how) if seeds == 1 else train_seeds(recipe, folder, seeds, **how)
    except (Interrupted, KeyboardInterrupt):
        words = ["widenet", "train", "--resume", str(folder), *(["--seeds", str(seeds)] if seeds > 1 else [])]
        saved = any(Run(run).last_checkpoint() for run in (folder, *folder.glob("seed-*")))
        hint = f"the run is saved. To go on: {shlex.join(words)}" if saved else "nothing was saved"
        print(f"interrupted; {hint}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)

    for run in [folder] if seeds == 1 else [folder / f"seed-{seed}" for seed in metrics["seeds"]]:
        write_report(run)
    if as_json:
        return print_json(metrics)
    task = find_task(metrics["task"])
    reached = "  ".join(f"{label} {text}" for label, text in as_text(task, headline_scores(metrics)).items())
    tested = sum(
        metrics["test"][part]["examples"] for part in metrics["test"] if not part or "" not in metrics["test"]
    )
    print(
        f"test {reached} on {tested:,} {task.words.examples}, {metrics['model']['parameters']:,} parameters, "
        f"{metrics['training']['seconds']:.0f} s{f' (medians of {seeds} seeds)' if seeds > 1 else ''}; "
        f"the run is in {folder}"
    )


def _what(name: str, overrides: list[str], output: Path | None, resume: bool, seeds: int) -> tuple[Any, Path, int]:
    """Return the recipe, the run folder and the number of seeds that a command line means."""
    from widenet.recipes import list_recipes, load_recipe
    from widenet.runs.run import Run

    folder = Path(name)
    is_run = (folder / "recipe.yaml").is_file() or any(folder.glob("seed-*/recipe.yaml"))
    if not (resume and is_run):
        if is_run and name not in list_recipes():
            fail(f"{name} is a run, not a recipe; `widenet train --resume {name}` goes on with it")
        recipe = load_recipe(name, overrides)
        return recipe, output or Path("runs") / recipe.name, seeds
    if output is not None and output.resolve() != folder.resolve():
        fail(f"--resume {name} goes on in that folder; leave out --output {output}")
    several = sorted(folder.glob("seed-*/recipe.yaml"), key=lambda file: int(file.parent.name.removeprefix("seed-")))
    if several and not (folder / "recipe.yaml").is_file():
        return Run(several[0].parent).read_recipe(overrides), folder, max(seeds, len(several))
    return Run(folder).read_recipe(overrides), folder, seeds
