"""One recipe with several seeds, and the median of what they reach."""

from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from widenet.errors import WideNetError
from widenet.recipes import Recipe
from widenet.runs.compare import read_metrics
from widenet.runs.folder import last_checkpoint, write_json
from widenet.training.run import check_same_recipe, train


def train_seeds(
    recipe: Recipe,
    output: Path,
    count: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train a recipe with ``count`` seeds, from its own upwards, into ``output/seed-…``; return the summary.

    The summary, ``output/metrics.json``, holds the median over the seeds of every number that a test
    returns, and each seed's values of the headline metrics under ``seeds``.

    Args:
        recipe: what to train.
        output: the folder of all the runs.
        count: how many seeds.
        resume: leave finished seeds as they are, go on with an interrupted one, train the others.
        overwrite: replace runs that the folder holds.
        console: where progress goes; nothing is printed by default.

    Raises:
        WideNetError: as :func:`train`, or ``count`` is below 1.
    """
    runs = {
        seed: (recipe.model_copy(update={"seed": seed}), output / f"seed-{seed}")
        for seed in range(recipe.seed, recipe.seed + count)
    }
    _check(runs, output, count, resume, overwrite)
    found = []
    for each, folder in runs.values():
        if resume and (folder / "metrics.json").is_file():
            found.append(read_metrics(folder))
            continue
        again = resume and last_checkpoint(folder) is not None
        # what an interruption before the first checkpoint left holds nothing
        anew = overwrite or (resume and (folder / "recipe.yaml").is_file() and not again)
        found.append(train(each, folder, resume=again, overwrite=anew, console=console))
    first = found[0]
    numbers = [key for key, value in first.items() if isinstance(value, int | float) and key != "seed"]
    summary = {
        **{key: first[key] for key in ("recipe", "task", "model", "headline")},
        **{key: _median([metrics[key] for metrics in found]) for key in numbers},
        "seeds": {str(metrics["seed"]): {key: metrics[key] for key in first["headline"]} for metrics in found},
        "split": first["split"],
    }
    write_json(output / "metrics.json", summary)
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
    begun = [(each, folder) for each, folder in runs.values() if (folder / "recipe.yaml").is_file()]
    if resume and not begun:
        raise WideNetError(f"nothing to resume: {output} holds none of these runs")
    for each, folder in begun:
        if resume:
            check_same_recipe(each, folder)
        elif not overwrite:
            raise WideNetError(f"{folder} already holds a run; add --resume to go on or --overwrite to replace it")


def _median(values: list[float]) -> float:
    """Return the median, of whole numbers a whole one where it is one."""
    middle = median(values)
    return int(middle) if all(isinstance(value, int) for value in values) and middle == int(middle) else middle
