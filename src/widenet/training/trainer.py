"""Hugging Face's Trainer with a task's own scores and the numbers that a person watches."""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from widenet.data.batch import as_is
from widenet.tasks import Task
from widenet.tasks.metrics import routing_operations
from widenet.training.callbacks import Clock
from widenet.training.optim import make_optimizer, make_scheduler


@dataclass
class Meter:
    """Means since the last reset, kept as tensors so that nothing waits for a GPU.

    Attributes:
        operations: routing operations of a forward pass, of which ``balance_loss`` is the mean; 0 without experts.
    """

    operations: int
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
        means = {"loss": float(self.loss) / self.batches}
        if self.operations:
            means["balance_loss"] = float(self.balance_loss) / self.batches / self.operations
        if self.predictions:
            means["accuracy"] = float(self.correct) / self.predictions
        return means


def training_batch(task: Task) -> int:
    """Return how many examples a training batch holds: as asked, but never more than there are."""
    asked, there, multiple = task.recipe.training.batch_size, len(cast(Any, task.train_batches)), task.batch_multiple
    return max(multiple, min(asked, there) // multiple * multiple)


def steps_per_epoch(task: Task) -> int:
    """Return the optimiser steps of one pass over the training examples."""
    batches = len(cast(Any, task.train_batches)) // training_batch(task)
    return max(1, math.ceil(batches / task.recipe.training.gradient_accumulation_steps))


class TaskTrainer(Trainer):
    """Trainer with a recipe's optimiser and schedule, and a task's own scores and validation.

    Its loss is the model's own, λ·Σ l included.
    """

    def __init__(self, task: Task, **kwargs: Any) -> None:
        super().__init__(task.model, train_dataset=task.train_batches, data_collator=as_is, **kwargs)
        self.task = task
        self.recipe = task.recipe.training
        self.meter = Meter(routing_operations(task.model.config))
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
            self.lr_scheduler = make_scheduler(chosen, self.recipe, num_training_steps, steps_per_epoch(self.task))
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
            self.meter = Meter(self.meter.operations)
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
