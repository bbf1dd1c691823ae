"""What a person sees while a model trains: one live line, or plain ones without a terminal; a line per validation."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from widenet.reports.markup import duration
from widenet.tasks import metric_of
from widenet.tasks.metrics import BALANCE, LOSS, Metric, format_metrics
from widenet.training.trainer import TaskTrainer

SECONDS_BETWEEN_LINES = 30  # where there is no terminal for a bar
TIMED_STEPS = 8  # after the first, which is slower, by which the whole is estimated
WORTH_SAYING = 120  # seconds; a shorter training needs no estimate
TRAINING_ACCURACY = Metric("accuracy", "training accuracy", "share")


class ProgressLine(TrainerCallback):
    """A bar with loss, balance loss, accuracy, speed and time left; without a terminal a plain line now and then."""

    def __init__(self, console: Console, trainer: TaskTrainer, seconds_between_lines: float = SECONDS_BETWEEN_LINES):
        self.console = console
        self.trainer = trainer
        self.task = trainer.task
        self.pause = seconds_between_lines
        self.started = self.first_end = self.last_line = 0.0
        self.first_step = 0
        self.train: dict[str, float] = {}
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=12 if console.width < 110 else 24),
            TextColumn("{task.completed}/{task.total}"),
            # in a narrow terminal these give way, and the time that is left stays
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_terminal,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started = self.last_line = time.perf_counter()
        self.first_step = state.global_step
        self.row = self.bar.add_task("train", total=state.max_steps, completed=state.global_step, epoch="", numbers="")
        self.bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        now = time.perf_counter()
        self._estimate(state, now)
        if self.bar.disable:
            if now - self.last_line < self.pause or not state.is_world_process_zero:
                return
        elif state.global_step % 10 and state.global_step < state.max_steps:
            return
        steps = state.global_step - self.first_step
        pace = steps / (now - self.started)  # steps a second
        speed = pace * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        numbers = f"{self._numbers(self.trainer.meter.means() or self.train)}  {speed:,.0f} {self.task.words.unit}/s"
        if self.bar.disable:
            self.last_line = now
            left = duration((state.max_steps - state.global_step) / pace)
            self.console.print(f"step {state.global_step}/{state.max_steps}  {numbers}  {left} left", highlight=False)
            return
        epochs = args.num_train_epochs if args.max_steps <= 0 else state.num_train_epochs
        epoch = f"{state.epoch or 0:.1f}/{epochs:g}"
        self.bar.update(self.row, completed=state.global_step, epoch=epoch, numbers=numbers)

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
            now = self.last_line = time.perf_counter()
            shown = tuple(metric_of(type(self.task), name) for name in self.task.headline)
            found = {key: metrics[f"eval_{key}"] for key in self.task.headline}
            self.console.print(
                f"epoch {state.epoch or 0:5.1f}  {self._numbers(self.train)}  "
                f"validation {format_metrics(shown, found)}  {now - self.started:.0f} s",
                highlight=False,
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.stop()

    def _numbers(self, means: dict[str, float]) -> str:
        """Return ``loss 0.512  balance loss 1.004  training accuracy 91.20%`` for what there is."""
        return format_metrics((LOSS, BALANCE, TRAINING_ACCURACY), means)

    def _estimate(self, state: TrainerState, now: float) -> None:
        """Say how long the whole will take, once a few steps have shown it."""
        done = state.global_step - self.first_step
        if done == 1:
            self.first_end = now
        elif done == 1 + TIMED_STEPS and state.is_world_process_zero:
            pace = (now - self.first_end) / TIMED_STEPS
            whole = pace * (state.max_steps - self.first_step)
            if whole > WORTH_SAYING:
                self.console.print(
                    f"about {duration(whole)} for {state.max_steps - self.first_step:,} steps of {pace:.2f} s, "
                    "validation not counted",
                    highlight=False,
                )
