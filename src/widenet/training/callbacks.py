"""What happens between the steps of a training: the clock, the last entry of the log, Ctrl-C."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Clock(TrainerCallback):
    """Training time: in all, over every resumption, and of this process in and outside the model's step.

    The time outside (data, bookkeeping) leaves out evaluation and saving; the time in all does not.
    """

    def __init__(self) -> None:
        self.before = 0.0
        self.started = time.perf_counter()
        self.in_step = 0.0
        self.outside = 0.0
        self._mark: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A resumed state brings the log of the run so far.
        self.before = next((entry["seconds"] for entry in reversed(state.log_history) if "seconds" in entry), 0.0)
        self.started = time.perf_counter()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._mark = time.perf_counter()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.outside += self._lap()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.in_step += self._lap()

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._mark = now - (self._mark or now), now
        return lap

    @property
    def seconds(self) -> float:
        """Training time so far, evaluation and saving included."""
        return self.before + time.perf_counter() - self.started

    @property
    def outside_fraction(self) -> float:
        """Share of training time in which the model waited."""
        return self.outside / max(self.outside + self.in_step, 1e-9)


class LogLastStep(TrainerCallback):
    """The log ends with the last step, which Trainer validates after, whatever ``eval_steps`` says."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.logging_strategy == "steps" and state.global_step >= state.max_steps:
            control.should_log = True


class StopOnInterrupt(TrainerCallback):
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
