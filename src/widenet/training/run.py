"""A recipe becomes a run folder: train, keep the best checkpoint, test, record.

A run folder holds the model in Hugging Face format, the image processor or tokenizer, ``recipe.yaml`` with every value
in force, ``metrics.json``, a model card, TensorBoard logs in ``logs/`` and resumable ``checkpoints/``.
"""

import errno
import logging
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from rich.console import Console
from safetensors import SafetensorError
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.integration_utils import TensorBoardCallback

import widenet
from widenet.errors import WideNetError
from widenet.models.counts import count
from widenet.recipes import Recipe, TextSection
from widenet.reports.card import write_card
from widenet.runs.folder import last_checkpoint, read_recipe, relocate, write_json
from widenet.tasks import TASKS, Task
from widenet.training.progress import ProgressLine
from widenet.training.trainer import TaskTrainer


class Interrupted(Exception):
    """Training stopped on request; the run folder can be resumed."""


def train(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train a recipe into a run folder and return what ``metrics.json`` holds.

    Args:
        recipe: what to train; with ``resume`` the recipe recorded in ``output`` must be the same.
        output: the run folder.
        resume: continue from the folder's last complete checkpoint.
        overwrite: replace the run that the folder holds.
        console: where progress goes; nothing is printed by default.

    Raises:
        WideNetError: a mistake in recipe, data, model or output folder; the disk is full.
        Interrupted: SIGINT arrived; a checkpoint was saved.
    """
    console = console or Console(quiet=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise WideNetError("training in several processes is not supported yet; start one, without torchrun")
    checkpoint = _check_output(recipe, output, resume, overwrite)
    task_class = TASKS[recipe.task]
    if recipe.model.name is None:
        raise WideNetError(f"recipe {recipe.name} needs model=: the folder of a pretrained model")
    task_class.check(recipe)
    if recipe.training.precision == "fp16" and _on_cpu(recipe):
        device = f"training.device={recipe.training.device}"
        raise WideNetError(f"training.precision=fp16 needs a GPU ({device} here); use bf16 or fp32 on a CPU")
    set_seed(recipe.seed)
    if recipe.data.source is None:
        labelled = "images" if "distillation" in recipe.task else "one sub-folder of images per class"
        kind = "text" if recipe.text else f"a folder with {labelled}"
        raise WideNetError(f"recipe {recipe.name} needs data=: {kind}")
    task = task_class.start(recipe)
    try:
        _prepare(output, overwrite, recipe)
        return _train(task, output, checkpoint, console)
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _disk_is_full(error):
            raise
        kept = last_checkpoint(output)
        hint = f"free some space and add --resume to go on from {kept.name}" if kept else "no checkpoint was saved"
        raise WideNetError(f"no space left on the disk of {output}; {hint}") from error


def _check_output(recipe: Recipe, output: Path, resume: bool, overwrite: bool) -> Path | None:
    """Settle what the output folder means before anything is loaded; return the checkpoint to resume."""
    if resume and overwrite:
        raise WideNetError("--resume and --overwrite exclude each other")
    if output.exists() and not output.is_dir():
        raise WideNetError(f"output {output} is a file, not a folder")
    # A folder of the user's own may hold a recipe.yaml, too; only a run has logs beside it.
    holds_run = (output / "recipe.yaml").exists() and ((output / "logs").is_dir() or (output / "config.json").exists())
    if resume:
        if not holds_run:
            raise WideNetError(f"nothing to resume: {output} holds no run")
        check_same_recipe(recipe, output)
        checkpoint = last_checkpoint(output)
        if checkpoint is None:
            raise WideNetError(f"nothing to resume: {output} has no complete checkpoint; start anew with --overwrite")
        return checkpoint
    if overwrite:
        _check_inputs_survive(recipe, output)
    if holds_run and not overwrite:
        raise WideNetError(f"{output} already holds a run; add --resume to go on or --overwrite to replace it")
    if not holds_run and output.is_dir() and any(output.iterdir()):
        raise WideNetError(f"{output} is not empty and holds no run; choose another --output folder")
    return None


def _check_inputs_survive(recipe: Recipe, output: Path) -> None:
    """Refuse to replace a folder that holds what the run is to be made from, or the current folder."""
    doomed = output.resolve()
    inputs = {"model": recipe.model.name, "data": recipe.data.source, "the current folder": "."}
    inputs["data.tokenizer"] = getattr(recipe.data, "tokenizer", None)
    inputs["distillation.teacher"] = getattr(getattr(recipe, "distillation", None), "teacher", None)
    for key, value in inputs.items():
        path = Path(value or "").expanduser().resolve()
        if value and Path(value).expanduser().exists() and (path == doomed or doomed in path.parents):
            raise WideNetError(
                f"--overwrite would delete {output}, which holds {key} ({value}); choose another --output"
            )


def check_same_recipe(asked: Recipe, output: Path) -> None:
    """Raise :class:`WideNetError` unless a recipe is the one that a run folder records."""
    before, now = _flat(read_recipe(output).model_dump()), _flat(asked.model_dump())
    for key in before | now:
        if before.get(key) != now.get(key):
            raise WideNetError(
                f"--resume goes on with the run in {output}, where {key}={before.get(key)}, not {now.get(key)}"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _on_cpu(recipe: Recipe) -> bool:
    return recipe.training.device == "cpu" or not torch.accelerator.is_available()


def _prepare(output: Path, overwrite: bool, recipe: Recipe) -> None:
    try:
        if overwrite and output.exists():
            shutil.rmtree(output.resolve())  # of a link, what it points to
        output.resolve().mkdir(parents=True, exist_ok=True)
        (output / "recipe.yaml").write_text(recipe.dump(), encoding="utf-8")
    except OSError as error:
        if _disk_is_full(error):
            raise
        raise WideNetError(f"output folder {output} cannot be written: {error}") from error


def _train(task: Task, output: Path, checkpoint: Path | None, console: Console) -> dict[str, Any]:
    recipe, model, sizes = task.recipe, task.model, task.split["sizes"]
    training = recipe.training
    multiple, there = task.batch_multiple, len(cast(Any, task.train_batches))
    batch_size = max(multiple, min(training.batch_size, there) // multiple * multiple)  # never larger than the set
    stop = _StopOnInterrupt()
    writer = SummaryWriter(str(output / "logs"))
    counts = count(cast(Any, model.config), recipe.data.max_length if isinstance(recipe.data, TextSection) else None)
    parameters = sum(parameter.numel() for parameter in model.parameters())  # with the head, which counts leaves out
    held_out = sum(size for part, size in sizes.items() if part not in ("train", "validation"))
    console.print(
        f"{recipe.name}: {recipe.model.name}, {parameters:,} parameters, {sizes['train']:,} {task.examples} "
        f"to train on, {sizes['validation']:,} to validate, {held_out:,} to test",
        highlight=False,
    )
    for note in task.notes:
        console.print(note, highlight=False)
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    if training.gradient_checkpointing:
        # Renamed in transformers 5.23; Trainer's own argument has no name that fits both.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    how_often = "steps" if training.eval_steps else "epoch"
    trainer = TaskTrainer(
        task,
        args=TrainingArguments(
            output_dir=str(output / "checkpoints"),
            num_train_epochs=training.epochs,
            max_steps=training.max_steps or -1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            max_grad_norm=training.max_grad_norm,
            bf16=training.precision == "bf16",
            fp16=training.precision == "fp16",
            use_cpu=_on_cpu(recipe),
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
        ),
        eval_dataset=task.train_batches,  # never read: the task validates
        callbacks=[stop, TensorBoardCallback(writer)],
    )
    trainer.add_callback(ProgressLine(console, trainer))
    trainer.remove_callback(PrinterCallback)
    if training.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(training.early_stopping_patience))
    if checkpoint:
        relocate(checkpoint)
    with stop.listening():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = trainer.clock.seconds
    writer.close()
    if stop.requested:
        raise Interrupted

    tested = task.test()
    model.save_pretrained(output)
    task.save_processor(output)
    task.write_predictions(output)
    history = [entry for entry in trainer.state.log_history if "eval_selection" in entry]
    best = next(entry for entry in history if entry["eval_selection"] == trainer.state.best_metric)
    metrics = {
        "recipe": recipe.name,
        "task": recipe.task,
        "headline": list(task.headline),
        "model": recipe.model.name,
        **tested,
        **{f"validation_{key}": best[f"eval_{key}"] for key in task.headline},
        "parameters": parameters,
        "active_parameters": parameters - (counts.parameters - counts.active_parameters),
        "flops": counts.flops,
        "active_flops": counts.active_flops,
        "epochs": round(trainer.state.epoch or 0, 3),
        "steps": trainer.state.global_step,
        "best_epoch": best["epoch"],
        "seconds": round(seconds, 2),
        **task.speed(trainer.state.global_step * batch_size * training.gradient_accumulation_steps, seconds),
        "outside_step_fraction": round(trainer.clock.outside_fraction, 4),
        "seed": recipe.seed,
        "split": task.split,
        "versions": _versions(),
        "commit": _commit(),
    }
    write_json(output / "metrics.json", metrics)
    write_card(output)
    return metrics


class _StopOnInterrupt(TrainerCallback):
    """Ctrl-C finishes the step, saves a checkpoint and stops; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True

        try:
            before = signal.signal(signal.SIGINT, handle)
        except ValueError:  # not in the main thread: whoever owns it handles Ctrl-C
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.requested:
            control.should_log = control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.requested and (state.epoch or 0) % 1 and state.global_step < state.max_steps:
            # Not the end of an epoch: an evaluation here would take part in choosing the best checkpoint,
            # and an uninterrupted run has none.
            control.should_log = control.should_evaluate = control.should_save = False


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
