"""Testing a run again, on its own data or on others."""

from pathlib import Path
from typing import Any

import torch

from widenet.convert.folder import task_of
from widenet.errors import WideNetError
from widenet.recipes import build_recipe
from widenet.runs.compare import read_metrics
from widenet.runs.folder import read_recipe, write_json
from widenet.tasks import TASKS


def evaluate_run(run: Path, overrides: list[str], output: Path | None = None) -> dict[str, Any]:
    """Test a run, or a model folder given ``data=``, and record the result.

    Args:
        run: the folder.
        overrides: ``key=value`` changes to the run's recipe, for example other data.
        output: folder for metrics.json. None means the run itself, unless there are overrides: then the
            metrics are not the run's own, and are only returned.

    Raises:
        WideNetError: the folder or the data cannot be read, the classes are not the model's, the data no
            longer split as in training, so that training examples could be among the tested, or the metrics
            cannot be written.
    """
    if (run / "recipe.yaml").is_file():
        recipe = read_recipe(run, overrides)
    else:
        defaults = {"name": "evaluate", "task": task_of(run), "data": {}, "model": {"name": str(run)}}
        if not any(override.startswith(("data=", "data.source=")) for override in overrides):
            raise WideNetError(f"{run} records no data set (it has no recipe.yaml); name one with data=")
        recipe = build_recipe({**defaults, "training": {"epochs": 1}}, overrides)
    task = TASKS[recipe.task].reload(recipe, run)
    if recipe.training.device == "auto" and torch.accelerator.is_available():
        torch.nn.Module.to(task.model, torch.accelerator.current_accelerator())
    recorded = read_metrics(run) if (run / "metrics.json").is_file() else {}
    split = recorded.get("split", {})
    own_test = not any(override.startswith("data.test=") for override in overrides)  # no part of the source
    if own_test and split.get("source") == task.split["source"] and split.get("digest") != task.split["digest"]:
        raise WideNetError(
            f"{recipe.data.source} is no longer split as it was in training (files or split settings changed), "
            "so training examples could be among the tested ones"
        )
    tested = task.test()
    if overrides:
        metrics = {**tested, "split": task.split}
    else:
        metrics = {**recorded, **tested, "split": task.split}
        output = output or run
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / "metrics.json", metrics)
            task.write_predictions(output)
        except OSError as error:
            raise WideNetError(f"{output}/metrics.json cannot be written: {error}") from error
    return metrics
