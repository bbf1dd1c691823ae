"""Training."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from widenet_cli.options import Overrides
from widenet_cli.show import EXIT_INTERRUPTED, console, quiet


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="The run folder [default: runs/RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
    seeds: Annotated[int, typer.Option(help="Train so many seeds, from seed= upwards, and report medians.")] = 1,
) -> None:
    """Train a recipe into a run folder."""
    train_recipe(recipe, overrides or [], output, resume, overwrite, seeds)


def train_recipe(
    recipe: str,
    overrides: list[str],
    output: Path | None,
    resume: bool = False,
    overwrite: bool = False,
    seeds: int = 1,
) -> None:
    """Train a recipe into a folder, write its report and print what it reached."""
    quiet()
    from widenet.recipes import load_recipe
    from widenet.runs.folder import last_checkpoint
    from widenet.training.progress import format_metrics
    from widenet.training.run import Interrupted
    from widenet.training.run import train as train_once
    from widenet.training.seeds import train_seeds

    loaded = load_recipe(recipe, overrides)
    folder = output or Path("runs") / loaded.name
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "console": console()}
    try:
        metrics = train_once(loaded, folder, **how) if seeds == 1 else train_seeds(loaded, folder, seeds, **how)
    except (Interrupted, KeyboardInterrupt):
        words = ["widenet", "train", recipe, *overrides, "--output", str(folder)]
        words += ["--resume"] if seeds == 1 else ["--seeds", str(seeds), "--resume"]
        saved = any(last_checkpoint(run) for run in (folder, *folder.glob("seed-*")))
        hint = f"the run is saved. To go on: {shlex.join(words)}" if saved else "nothing was saved"
        print(f"interrupted; {hint}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    from widenet.reports import write_report

    for run in [folder] if seeds == 1 else [folder / f"seed-{seed}" for seed in metrics["seeds"]]:
        write_report(run)
    unit = next(key for key in metrics if key.startswith("test_")).removeprefix("test_")
    parts = [part for part in metrics["split"]["sizes"] if f"{part}_loss" in metrics] or [""]  # of MNLI, two
    reached = "  ".join(
        format_metrics({f"{part} {key}".strip(): metrics[f"{part}_{key}".strip("_")] for key in metrics["headline"]})
        for part in parts
    )
    print(
        f"test {reached} on {metrics[f'test_{unit}']:,} {unit}, {metrics['parameters']:,} parameters, "
        f"{metrics['seconds']:.0f} s{f' (medians of {seeds} seeds)' if seeds > 1 else ''}; the run is in {folder}"
    )
