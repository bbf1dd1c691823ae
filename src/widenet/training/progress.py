"""What a person sees while a model trains: one live line, then one line per epoch."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from widenet.training.trainer import TaskTrainer


class ProgressLine(TrainerCallback):
    """A bar with loss, balance loss, accuracy, speed and time left; a plain line per evaluation."""

    def __init__(self, console: Console, trainer: TaskTrainer) -> None:
        self.console = console
        self.trainer = trainer
        self.started = 0.0
        self.first_step = 0
        self.train: dict[str, float] = {}
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first_step = time.perf_counter(), state.global_step
        self.task = self.bar.add_task(
            "train", total=state.max_steps, completed=state.global_step, epoch="", numbers=""
        )
        self.bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.logging_strategy == "steps" and state.global_step >= state.max_steps:
            control.should_log = True  # Trainer validates after the last step, whatever eval_steps says
        if self.bar.disable or (state.global_step % 10 and state.global_step < state.max_steps):
            return
        steps = state.global_step - self.first_step
        speed = steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        speed /= time.perf_counter() - self.started
        numbers = (
            f"{format_numbers(self.trainer.meter.means() or self.train)}  {speed:,.0f} {self.trainer.task.unit}/s"
        )
        epochs = args.num_train_epochs if args.max_steps <= 0 else state.num_train_epochs
        epoch = f"{state.epoch or 0:.1f}/{epochs:g}"
        self.bar.update(self.task, completed=state.global_step, epoch=epoch, numbers=numbers)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.train = {key: logs[key] for key in ("loss", "balance_loss", "accuracy") if key in logs}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if metrics and state.is_world_process_zero:
            elapsed = time.perf_counter() - self.started
            found = {key: metrics[f"eval_{key}"] for key in self.trainer.task.headline}
            self.console.print(
                f"epoch {state.epoch or 0:5.1f}  {format_numbers(self.train)}  "
                f"validation {format_metrics(found)}  {elapsed:.0f} s",
                highlight=False,
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.stop()


def format_numbers(means: dict[str, float]) -> str:
    """Return ``loss 0.512  balance 4.02  train accuracy 91.2 %`` for what there is."""
    if not means:
        return ""
    accuracy = f"  train accuracy {means['accuracy']:.1%}" if "accuracy" in means else ""
    return f"loss {means['loss']:.3f}  balance {means['balance_loss']:.2f}{accuracy}"


def format_metrics(metrics: dict[str, float]) -> str:
    """Return ``accuracy 91.20%`` or ``mlm loss 3.210  mlm accuracy 40.10%``: losses plain, shares in percent."""
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.3f}" if is_plain(name) else f"{name.replace('_', ' ')} {value:.2%}"
        for name, value in metrics.items()
    )


def is_plain(name: str) -> bool:
    """Whether a metric is a number of its own rather than a share of all."""
    # SQuAD's scores are in percent already
    return name.endswith("loss") or name in ("pearson", "spearman", "f1", "exact", "exact_match")
