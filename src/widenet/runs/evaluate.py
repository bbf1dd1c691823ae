"""Testing a run again, on its own data or on others."""

from pathlib import Path
from typing import Any, cast

import torch

from widenet.errors import WideNetError
from widenet.models.counts import ModelConfig, active_parameters, count
from widenet.recipes import build_recipe
from widenet.runs.run import Run
from widenet.tasks import Task, find_task


def evaluate_run(path: Path, overrides: list[str], output: Path | None = None) -> dict[str, Any]:
    """Test a run, or a model folder given ``data=``, and record the result.

    Args:
        path: the folder.
        overrides: ``key=value`` changes to the run's recipe, for example other data.
        output: folder for metrics.json. None means the run itself, unless there are overrides: then the
            metrics are not the run's own, and are only returned.

    Raises:
        WideNetError: the folder or the data cannot be read, the classes are not the model's, the data no
            longer split as in training, so that training examples could be among the tested, or the metrics
            cannot be written.
    """
    run = Run(path)
    if run.recipe_text is not None:
        recipe = run.read_recipe(overrides)
    else:
        defaults = {"name": "evaluate", "task": run.head_task.name, "data": {}, "model": {"name": str(path)}}
        if not any(override.startswith(("data=", "data.source=")) for override in overrides):
            raise WideNetError(f"{path} records no data set (it has no recipe.yaml); name one with data=")
        recipe = build_recipe({**defaults, "training": {"epochs": 1}}, overrides)
    model = run.model()
    task = find_task(recipe.task).reload(recipe, model, run.processor())
    if recipe.training.device == "auto" and torch.accelerator.is_available():
        torch.nn.Module.to(task.model, torch.accelerator.current_accelerator())
    recorded = run.stored_metrics or {}
    split = recorded.get("split", {})
    own_test = not any(override.startswith("data.test=") for override in overrides)  # no part of the source
    tested = recorded_split(task)
    if own_test and split.get("source") == tested["source"] and split.get("digest") != tested.get("digest"):
        raise WideNetError(
            f"{recipe.data.source} is no longer split as it was in training (files or split settings changed), "
            "so training examples could be among the tested ones"
        )
    metrics = {**describe_run(task), "test": task.test(), "split": tested}
    if not overrides:
        metrics = {**_converted(recorded), **metrics}
        output = output or path
    if output is not None:
        try:
            Run(output).write_metrics(metrics)
            task.write_predictions(output)
        except OSError as error:
            raise WideNetError(f"{output}/metrics.json cannot be written: {error}") from error
    return metrics


def recorded_split(task: Task) -> dict[str, Any]:
    """Return the record of a split, its source named from the root: the same folder has the same name everywhere."""
    return {**task.split, "source": task.recipe.with_absolute_paths().data.source}


def describe_run(task: Task) -> dict[str, Any]:
    """Return what ``metrics.json`` says of a run before it says what the run reached."""
    recipe, config = task.recipe, cast(ModelConfig, task.model.config)
    counts = count(config, getattr(recipe.data, "max_length", None))
    parameters = sum(parameter.numel() for parameter in task.model.parameters())  # with the head, unlike counts
    return {
        "recipe": recipe.name,
        "task": recipe.task,
        "headline": list(task.headline),
        "model": {
            "name": recipe.model.name,
            "parameters": parameters,
            "active_parameters": active_parameters(task.model),
            "flops": counts.flops,
            "active_flops": counts.active_flops,
        },
    }


def _converted(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return a record in today's form; what the flat form of old says of training is kept."""
    if "test" in recorded or not recorded:
        return recorded
    names = ("seconds", "steps", "epochs", "best_epoch", "seed", "tokens_per_second", "outside_step_fraction")
    validation = {
        key.removeprefix("validation_"): value for key, value in recorded.items() if key.startswith("validation_")
    }
    training = {name: recorded[name] for name in names if name in recorded}
    return {
        "validation": validation,
        "training": training,
        **{name: recorded[name] for name in ("versions", "commit") if name in recorded},
    }
