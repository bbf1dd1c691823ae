"""The paper's optimisers and schedules (Tables 6 and 7)."""

import math
from typing import Any

import torch
from timm.optim.lamb import Lamb
from torch import nn

from widenet.recipes import TrainingSection

UNDECAYED = {"position_embeddings", "cls_token", "register_tokens"}  # parts of the names of parameters


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: biases, norms, positions, [CLS] and registers are not decayed."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.dim() < 2 or name.endswith("bias") or not UNDECAYED.isdisjoint(name.split("."))
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
    optimizer: torch.optim.Optimizer, training: TrainingSection, total_steps: int, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return linear warm-up followed by the recipe's decay to zero (Table 6 for ``cosine``).

    Args:
        optimizer: whose learning rate it sets.
        training: of the recipe.
        total_steps: optimiser steps of the whole training.
        steps_per_epoch: what an epoch of warm-up is where ``max_steps`` and not ``epochs`` ends the training.
    """
    epochs = total_steps / steps_per_epoch if training.max_steps else training.epochs
    warmup = min(total_steps, training.warmup_steps or round(total_steps * (training.warmup_epochs / epochs)))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        if training.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return 1.0 if training.schedule == "constant" else max(0.0, 1 - progress)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
