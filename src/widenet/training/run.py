"""A recipe becomes a run folder: train, keep the best checkpoint, test, record."""

import errno
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import logging

import widenet
from widenet.errors import WideNetError
from widenet.recipes import Recipe
from widenet.reports.card import write_card
from widenet.runs.evaluate import describe_run, recorded_split
from widenet.runs.run import Run
from widenet.tasks import Task, find_task
from widenet.training.callbacks import LogLastStep, StopOnInterrupt
from widenet.training.progress import ProgressLine
from widenet.training.trainer import TaskTrainer, training_batch

LENGTHS = ("training.epochs", "training.max_steps")  # what a resumed run may have more of


class Interrupted(Exception):
    """Training stopped on request; the run folder can be resumed."""


def train(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Train a recipe into a run folder and return what ``metrics.json`` holds.

    Args:
        recipe: what to train; with ``resume`` the recipe recorded in ``output`` must be the same, but may be shorter.
        output: the run folder.
        resume: continue from the folder's last complete checkpoint.
        overwrite: replace the run that the folder holds.
        console: where progress goes; nothing is printed by default.
        command: the command line that asked for it, to be recorded.

    Raises:
        WideNetError: a mistake in recipe, data, model or output folder; the disk is full.
        Interrupted: SIGINT arrived; a checkpoint was saved.
    """
    console = console or Console(quiet=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise WideNetError("training in several processes is not supported yet; start one, without torchrun")
    run = Run(output)
    checkpoint, longer = _check_output(recipe, run, resume, overwrite)
    task = start_task(recipe)
    for change in longer:
        console.print(f"{change}: the learning rate follows the longer schedule from here on", highlight=False)
    try:
        _begin(run, recipe, task, overwrite, command)
        return _train(task, run, checkpoint, console)
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _disk_is_full(error):
            raise
        kept = run.last_checkpoint()
        hint = f"free some space, then `widenet train --resume {output}` goes on from {kept.name}" if kept else ""
        raise WideNetError(f"no space left on the disk of {output}; {hint or 'no checkpoint was saved'}") from error


def start_task(recipe: Recipe) -> Task:
    """Return the task of a recipe, its data read and its model made.

    Raises:
        WideNetError: a mistake in recipe, data or model.
    """
    task_class = find_task(recipe.task)
    if recipe.model.name is None:
        raise WideNetError(f"recipe {recipe.name} needs model=: the folder of a pretrained model")
    task_class.check(recipe)
    if recipe.training.precision == "fp16" and on_cpu(recipe):
        device = f"training.device={recipe.training.device}"
        raise WideNetError(f"training.precision=fp16 needs a GPU ({device} here); use bf16 or fp32 on a CPU")
    set_seed(recipe.seed)
    if recipe.data.source is None:
        raise WideNetError(f"recipe {recipe.name} needs data=: {task_class.words.data}")
    return task_class.start(recipe)


def _check_output(recipe: Recipe, run: Run, resume: bool, overwrite: bool) -> tuple[Path | None, list[str]]:
    """Settle what the output folder means before anything is loaded.

    Returns:
        The checkpoint to resume, and how the run is to be longer than it was.
    """
    output = run.path
    if resume and overwrite:
        raise WideNetError("--resume and --overwrite exclude each other")
    if output.exists() and not output.is_dir():
        raise WideNetError(f"output {output} is a file, not a folder")
    if resume:
        if not run.holds_run:
            raise WideNetError(f"nothing to resume: {output} holds no run")
        longer = check_same_recipe(recipe, run)
        checkpoint = run.last_checkpoint()
        if checkpoint is None:
            raise WideNetError(f"nothing to resume: {output} has no complete checkpoint; start anew with --overwrite")
        return checkpoint, longer
    if overwrite:
        _check_inputs_survive(recipe, output)
    if run.holds_run and not overwrite:
        raise WideNetError(
            f"{output} already holds a run; `widenet train --resume {output}` goes on with it, --overwrite replaces it"
        )
    if not run.holds_run and output.is_dir() and any(output.iterdir()):
        raise WideNetError(f"{output} is not empty and holds no run; choose another --output folder")
    return None, []


def _check_inputs_survive(recipe: Recipe, output: Path) -> None:
    """Refuse to replace a folder that holds what the run is to be made from, or the current folder."""
    doomed = output.resolve()
    for key, value in {**recipe.paths(), "the current folder": "."}.items():
        path = Path(value).expanduser().resolve()
        if path.exists() and (path == doomed or doomed in path.parents):
            raise WideNetError(
                f"--overwrite would delete {output}, which holds {key} ({value}); choose another --output"
            )


def check_same_recipe(asked: Recipe, run: Run) -> list[str]:
    """Return how a recipe is longer than the one that a run folder records.

    Raises:
        WideNetError: it differs otherwise.
    """
    before, now = (_flat(recipe.with_absolute_paths().model_dump()) for recipe in (run.recipe, asked))
    longer = []
    for key in before | now:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key in LENGTHS and (new == 0 or (old and new > old)):
            longer.append(f"{key} grows from {old} to {new}")
            continue
        more = "; it may only grow" if key in LENGTHS else ""
        raise WideNetError(f"--resume goes on with the run in {run.path}, where {key}={old}, not {new}{more}")
    return longer


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def on_cpu(recipe: Recipe) -> bool:
    """Whether a recipe trains on the CPU here."""
    return recipe.training.device == "cpu" or not torch.accelerator.is_available()


def _begin(run: Run, recipe: Recipe, task: Task, overwrite: bool, command: str | None) -> None:
    try:
        run.begin(recipe.with_absolute_paths(), overwrite, command)
        task.save_processor(run.path)  # now, so that a run which is interrupted can be used, too
    except OSError as error:
        if _disk_is_full(error):
            raise
        raise WideNetError(f"output folder {run.path} cannot be written: {error}") from error


def describe_start(task: Task) -> list[str]:
    """Return what a person should know before training starts: model, sizes, and what is not as they asked."""
    recipe, sizes, examples = task.recipe, task.split["sizes"], task.words.examples
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    held_out = sum(size for part, size in sizes.items() if part not in ("train", "validation"))
    lines = [
        f"{recipe.name}: {recipe.model.name}, {parameters:,} parameters, {sizes['train']:,} {examples} "
        f"to train on, {sizes['validation']:,} to validate, {held_out:,} to test"
    ]
    if (batch := training_batch(task)) != recipe.training.batch_size:
        why = "all there are" if batch < recipe.training.batch_size // 2 else f"a multiple of {task.batch_multiple}"
        lines.append(f"batches of {batch} instead of training.batch_size={recipe.training.batch_size}: {why}")
    return lines + task.notes


def _train(task: Task, run: Run, checkpoint: Path | None, console: Console) -> dict[str, Any]:
    recipe, model, training = task.recipe, task.model, task.recipe.training
    for line in describe_start(task):
        console.print(line, highlight=False)
    if training.gradient_checkpointing:
        # Renamed in transformers 5.23; Trainer's own argument has no name that fits both.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    stop = StopOnInterrupt()
    with _quiet_transformers(), _summary_writer(run.path / "logs") as writer:
        trainer = TaskTrainer(
            task,
            args=_arguments(task, run.path / "checkpoints"),
            eval_dataset=task.train_batches,  # never read: the task validates
            callbacks=[stop, LogLastStep(), TensorBoardCallback(writer)],
        )
        trainer.add_callback(ProgressLine(console, trainer))
        trainer.remove_callback(PrinterCallback)
        if training.early_stopping_patience:
            trainer.add_callback(EarlyStoppingCallback(training.early_stopping_patience))
        if checkpoint:
            run.relocate(checkpoint)
        with stop.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = trainer.clock.seconds
    if stop.requested:
        raise Interrupted

    state, batch = trainer.state, training_batch(task)
    history = [entry for entry in state.log_history if "eval_selection" in entry]
    best = next(entry for entry in history if entry["eval_selection"] == state.best_metric)
    metrics = {
        **describe_run(task),
        "test": task.test(),
        "validation": {
            key.removeprefix("eval_"): value
            for key, value in best.items()
            if key.startswith("eval_") and key != "eval_selection"
        },
        "training": {
            "seconds": round(seconds, 2),
            "steps": state.global_step,
            "epochs": round(state.epoch or 0, 3),
            "best_epoch": best["epoch"],
            "processes": 1,
            "batch_size": batch * training.gradient_accumulation_steps,
            "seed": recipe.seed,
            **task.speed(state.global_step * batch * training.gradient_accumulation_steps, seconds),
            "outside_step_fraction": round(trainer.clock.outside_fraction, 4),
            "command": run.command,
        },
        "split": recorded_split(task),
        "versions": _versions(),
        "commit": _commit(),
    }
    run.save_model(model)
    task.write_predictions(run.path)
    run.write_metrics(metrics)
    write_card(run.path)
    return metrics


def _arguments(task: Task, folder: Path) -> TrainingArguments:
    recipe, training = task.recipe, task.recipe.training
    how_often = "steps" if training.eval_steps else "epoch"
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training_batch(task),
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        max_grad_norm=training.max_grad_norm,
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        use_cpu=on_cpu(recipe),
        seed=recipe.seed,
        eval_strategy=how_often,
        save_strategy=how_often,
        logging_strategy=how_often,
        eval_steps=training.eval_steps or None,
        save_steps=training.eval_steps or 500,
        logging_steps=training.eval_steps or 500,
        save_total_limit=training.save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model="selection",
        greater_is_better=True,
        dataloader_drop_last=True,
        dataloader_num_workers=recipe.data.num_workers,
        dataloader_persistent_workers=recipe.data.num_workers > 0,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Let transformers speak of errors alone, and as before afterwards; Trainer sets its level for good."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _summary_writer(folder: Path) -> Iterator[SummaryWriter]:
    writer = SummaryWriter(str(folder))
    try:
        yield writer
    finally:
        writer.close()


def _disk_is_full(error: BaseException | None) -> bool:
    # safetensors and torch.save report it only in their text, or as the cause
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        if "PytorchStreamWriter failed" in str(error) or "unexpected pos" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "timm", "numpy")
    ours = {"python": platform.python_version(), "widenet": widenet.__version__}
    return {**ours, **{name: version(name) for name in packages}}


def _commit() -> str | None:
    """The commit of the source tree this package runs from, if it is one."""
    here = Path(__file__).resolve()
    answer = ""
    try:
        # An installed package may lie inside some other repository: this file must be one of the commit's.
        for question in (["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"]):
            command = ["git", "-C", str(here.parent), *question]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.strip()
