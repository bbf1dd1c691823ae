"""What a training would be: sizes, steps, and the time it would take after a few timed steps. Nothing is written."""

import math
import time
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from widenet.data.batch import as_is
from widenet.recipes import Recipe
from widenet.runs.evaluate import describe_run
from widenet.tasks import Task
from widenet.training.optim import make_optimizer
from widenet.training.run import describe_start, on_cpu, start_task
from widenet.training.trainer import steps_per_epoch, training_batch

TIMED_STEPS = 3  # after one that is not timed, since the first is slower


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Return what training a recipe would be.

    Args:
        recipe: data and model are read as for training.

    Returns:
        ``model`` as in ``metrics.json``, ``sizes`` of the parts, ``notes`` (lines for a person), ``steps``,
        ``seconds_per_step`` and ``seconds``, the estimate of the whole: its steps and validations, on this machine.

    Raises:
        WideNetError: as :func:`widenet.training.run.train`.
    """
    task = start_task(recipe)
    training, batch, per_epoch = recipe.training, training_batch(task), steps_per_epoch(task)
    steps = training.max_steps or math.ceil(training.epochs * per_epoch)
    if not on_cpu(recipe):
        torch.nn.Module.to(task.model, torch.accelerator.current_accelerator())
    step = _seconds_per_batch(task, batch) * training.gradient_accumulation_steps
    validations = math.ceil(steps / (training.eval_steps or per_epoch))
    return {
        "model": describe_run(task)["model"],
        "sizes": task.split["sizes"],
        "notes": describe_start(task),
        "steps": steps,
        "seconds_per_step": round(step, 4),
        "seconds": round(steps * step + validations * _seconds_to_validate(task), 1),
    }


def _seconds_per_batch(task: Task, size: int) -> float:
    """Train on a few batches, and return the mean time of one."""
    optimizer = make_optimizer(task.model, task.recipe.training)
    loader = DataLoader(task.train_batches, size, shuffle=True, drop_last=True, collate_fn=as_is)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(task.recipe.training.precision)
    task.model.train()
    started, done = time.perf_counter(), 0
    for number, batch in enumerate(loader):
        if number == 1:
            started, done = time.perf_counter(), 0
        there = {key: value.to(task.model.device) for key, value in batch.items()}
        with torch.autocast(task.model.device.type, precision, enabled=precision is not None):
            loss = task.forward(task.model, there).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for a GPU
        done += 1
        if number == TIMED_STEPS:
            break
    return (time.perf_counter() - started) / done


def _seconds_to_validate(task: Task) -> float:
    """Run through one batch of the validation part, and return the time of all."""
    batches: Dataset[Any] = task.batches("validation")
    size = task.recipe.training.eval_batch_size
    started = time.perf_counter()
    next(task.run_through(batches))
    return (time.perf_counter() - started) * math.ceil(len(cast(Any, batches)) / size)
