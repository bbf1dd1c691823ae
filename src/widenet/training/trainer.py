"""Hugging Face's Trainer with the paper's optimisers and the numbers a person watches."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim.lamb import Lamb
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from widenet.data.batch import as_is
from widenet.recipes import TrainingSection
from widenet.tasks import Task


@dataclass
class Meter:
    """Means since the last reset, kept as tensors so that nothing waits for a GPU."""

    batches: int = 0
    predictions: int = 0
    loss: Tensor | float = 0.0
    balance_loss: Tensor | float = 0.0
    correct: Tensor | float = 0.0

    def update(self, outputs: Any, correct: Tensor, predictions: int) -> None:
        """Add one batch, in which so many of so many predictions were right."""
        self.batches += 1
        self.predictions += predictions
        self.loss = self.loss + outputs.loss.detach().mean()
        self.balance_loss = self.balance_loss + outputs.balance_loss.detach().mean()
        self.correct = self.correct + correct

    def means(self) -> dict[str, float]:
        """Return loss, balance loss and accuracy; no accuracy where nothing can be right, as in regression."""
        if not self.batches:
            return {}
        means = {"loss": float(self.loss) / self.batches, "balance_loss": float(self.balance_loss) / self.batches}
        if self.predictions:
            means["accuracy"] = float(self.correct) / self.predictions
        return means


class TaskTrainer(Trainer):
    """Trainer with a recipe's optimiser and schedule, and a task's own scores and validation.

    Its loss is the model's own, λ·Σ l included.
    """

    def __init__(self, task: Task, **kwargs: Any) -> None:
        super().__init__(task.model, train_dataset=task.train_batches, data_collator=as_is, **kwargs)
        self.task = task
        self.recipe = task.recipe.training
        self.meter = Meter()
        self.clock = Clock()
        self.add_callback(self.clock)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the recipe's optimiser, made on the first call."""
        if self.optimizer is None:
            chosen = self.model if model is None else model
            assert chosen is not None
            self.optimizer = make_optimizer(chosen, self.recipe)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the recipe's schedule over the steps that Trainer counted, made on the first call."""
        if self.lr_scheduler is None:
            chosen = optimizer or self.optimizer
            assert chosen is not None
            self.lr_scheduler = make_scheduler(chosen, self.recipe, num_training_steps)
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the model's loss (Eq 8)."""
        outputs = self.task.forward(model, inputs)
        if model.training:
            self.meter.update(outputs, *self.task.score(outputs, inputs))
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the means since the last time instead of the last batch's loss."""
        if "loss" in logs:
            logs |= self.meter.means() | {"seconds": self.clock.seconds}
            self.meter = Meter()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return, and log, the task's validation metrics."""
        metrics = {f"eval_{key}": value for key, value in self.task.validate().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of training batches, one that leaves the model's random numbers alone.

        Otherwise each start of its worker processes would draw one, and a resumed run starts them anew.
        """
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)  # accelerate wraps the real one
        inner.generator = torch.Generator()
        return loader


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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: biases, norms, positions and [CLS] are not decayed."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.dim() < 2 or name.endswith(("bias", "position_embeddings", "cls_token"))
            (free if exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def make_optimizer(model: nn.Module, training: TrainingSection) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe.

    LAMB is timm's, with its own gradient clipping off: Trainer clips the global norm for every optimiser.
    """
    groups = parameter_groups(model, training.weight_decay)
    rate = training.learning_rate
    if training.optimizer == "lamb":
        return Lamb(groups, lr=rate, betas=training.betas, max_grad_norm=None)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=training.momentum)
    return torch.optim.AdamW(groups, lr=rate, betas=training.betas)


def make_scheduler(
    optimizer: torch.optim.Optimizer, training: TrainingSection, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return linear warm-up followed by the recipe's decay to zero (Table 6 for ``cosine``)."""
    share = training.warmup_epochs / training.epochs
    warmup = min(total_steps, training.warmup_steps or round(total_steps * share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        if training.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return 1.0 if training.schedule == "constant" else max(0.0, 1 - progress)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
