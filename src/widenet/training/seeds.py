"""One recipe with several seeds, and the median of what they reach."""

from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from widenet.errors import WideNetError
from widenet.recipes import Recipe
from widenet.runs.compare import headline_scores
from widenet.runs.run import Run
from widenet.training.run import check_same_recipe, train


def train_seeds(
    recipe: Recipe,
    output: Path,
    count: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Train a recipe with ``count`` seeds, from its own upwards, into ``output/seed-…``; return the summary.

    The summary, ``output/metrics.json``, has the form of a run's and holds the median over the seeds of every number
    in it, and each seed's values of the headline metrics under ``seeds``.

    Args:
        recipe: what to train.
        output: the folder of all the runs.
        count: how many seeds.
        resume: leave finished seeds as they are, go on with an interrupted one, train the others.
        overwrite: replace runs that the folder holds.
        console: where progress goes; nothing is printed by default.
        command: the command line that asked for it, to be recorded.

    Raises:
        WideNetError: as :func:`train`, or ``count`` is below 1.
    """
    runs = {
        seed: (recipe.model_copy(update={"seed": seed}), output / f"seed-{seed}")
        for seed in range(recipe.seed, recipe.seed + count)
    }
    _check(runs, output, count, resume, overwrite)
    found = {}
    for seed, (each, folder) in runs.items():
        run = Run(folder)
        if resume and run.stored_metrics is not None and not check_same_recipe(each, run):
            found[seed] = run.metrics
            continue
        again = resume and run.last_checkpoint() is not None
        # what an interruption before the first checkpoint left holds nothing
        anew = overwrite or (resume and run.recipe_text is not None and not again)
        found[seed] = train(each, folder, resume=again, overwrite=anew, console=console, command=command)
    summary: dict[str, Any] = _medians(list(found.values()))
    summary["training"].pop("seed")
    summary["seeds"] = {str(seed): headline_scores(metrics) for seed, metrics in found.items()}
    Run(output).write_metrics(summary)
    return summary


def _check(runs: dict[int, tuple[Recipe, Path]], output: Path, count: int, resume: bool, overwrite: bool) -> None:
    """Find what would stop a later run before the first one starts, and what must not be written into."""
    if count < 1:
        raise WideNetError(f"seeds={count} must be at least 1")
    if max(runs) >= 2**32:
        raise WideNetError(f"seed={min(runs)} leaves no room for {count} seeds; the largest is {2**32 - 1}")
    if resume and overwrite:
        raise WideNetError("--resume and --overwrite exclude each other")
    if output.exists() and not output.is_dir():
        raise WideNetError(f"output {output} is a file, not a folder")
    if (output / "recipe.yaml").exists():
        raise WideNetError(f"{output} holds a run of one seed; choose another --output folder for several")
    if output.is_dir() and any(output.iterdir()) and not any(output.glob("seed-*/recipe.yaml")):
        raise WideNetError(f"{output} is not empty and holds no run; choose another --output folder")
    begun = [(each, Run(folder)) for each, folder in runs.values() if (folder / "recipe.yaml").is_file()]
    if resume and not begun:
        raise WideNetError(f"nothing to resume: {output} holds none of these runs")
    for each, run in begun:
        if resume:
            check_same_recipe(each, run)
        elif not overwrite:
            raise WideNetError(f"{run.path} already holds a run; --resume goes on with it, --overwrite replaces it")


def _medians(values: list[Any]) -> Any:
    """Return nested values of one form with the median of every number; where they are no numbers, the first."""
    first = values[0]
    if isinstance(first, dict):
        return {key: _medians([value[key] for value in values if key in value]) for key in first}
    if isinstance(first, bool) or not all(isinstance(value, int | float) for value in values):
        return first
    middle = median(values)
    whole = all(isinstance(value, int) for value in values) and middle == int(middle)
    return int(middle) if whole else middle
