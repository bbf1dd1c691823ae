"""Optimiser, schedule and meters, worked by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from widenet.models.presets import create_model
from widenet.recipes import TrainingSection
from widenet.training import callbacks as callbacks_module
from widenet.training.callbacks import Clock
from widenet.training.optim import make_optimizer, make_scheduler, parameter_groups
from widenet.training.trainer import Meter


def training(**fields: Any) -> TrainingSection:
    return TrainingSection.model_validate({"epochs": 10.0, **fields})


def small_model() -> nn.Module:
    """A dense block and a mixture, a [CLS] token and a representation layer: every kind of parameter."""
    return create_model(
        "vit-moe-digits",
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        moe_layers=[1],
        share_attention=True,
        share_norm=True,
        pooling="cls",
        use_representation=True,
    )


# ---- parameters and optimisers ----


def test_only_matrices_are_decayed() -> None:
    model = small_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = parameter_groups(model, 0.3)
    assert decayed["weight_decay"] == 0.3
    assert free["weight_decay"] == 0.0
    assert {names[id(parameter)] for parameter in decayed["params"]} == {
        "model.embeddings.projection.weight",
        "model.encoder.attentions.0.q_proj.weight",
        "model.encoder.attentions.0.k_proj.weight",
        "model.encoder.attentions.0.v_proj.weight",
        "model.encoder.attentions.0.o_proj.weight",
        "model.encoder.feed_forwards.0.up_proj.weight",
        "model.encoder.feed_forwards.0.down_proj.weight",
        "model.encoder.routers.0.weight",
        "model.encoder.experts.0.up_proj",
        "model.encoder.experts.0.down_proj",
        "model.representation.weight",
        "classifier.weight",
    }
    found_free = {names[id(parameter)] for parameter in free["params"]}
    # two or three dimensions, and yet not decayed
    assert {
        "model.embeddings.cls_token",
        "model.embeddings.position_embeddings",
        "model.encoder.experts.0.up_proj_bias",
        "model.encoder.experts.0.down_proj_bias",
        "model.encoder.norms.0.attention.weight",
        "model.encoder.final_norm.weight",
    } <= found_free
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_frozen_parameters_are_left_out() -> None:
    model = small_model()
    model.get_parameter("classifier.weight").requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    together = [id(parameter) for group in groups for parameter in group["params"]]
    assert id(model.get_parameter("classifier.weight")) not in together
    assert len(together) == sum(1 for _ in model.parameters()) - 1


def test_lamb_has_the_recipe_s_values_and_does_not_clip() -> None:
    optimizer = make_optimizer(
        small_model(), training(optimizer="lamb", betas=(0.8, 0.95), learning_rate=0.01, weight_decay=0.1)
    )
    assert type(optimizer).__name__ == "Lamb"
    for group, decay in zip(optimizer.param_groups, (0.1, 0.0), strict=True):
        assert tuple(group["betas"]) == (0.8, 0.95)
        assert (group["lr"], group["weight_decay"], group["max_grad_norm"]) == (0.01, decay, None)


def test_a_lamb_step_by_hand() -> None:
    # Adam's first step is the gradient's sign: u = sign(g) + 0.1·w = (1, 1, 1, 1) + 0.1·(1, 1, 1, 1) = 1.1.
    # Trust ratio |w| / |u| = 2 / 2.2, so w ← 1 - 0.01 · (2 / 2.2) · 1.1 = 0.99.
    model = nn.Linear(2, 2, bias=False)
    nn.init.ones_(model.weight)
    optimizer = make_optimizer(model, training(optimizer="lamb", learning_rate=0.01, weight_decay=0.1))
    model.weight.grad = torch.full((2, 2), 7.0)
    optimizer.step()
    assert torch.allclose(model.weight, torch.full((2, 2), 0.99), atol=1e-5)


def test_adamw_and_sgd() -> None:
    adamw = make_optimizer(small_model(), training(betas=(0.8, 0.9), learning_rate=0.5))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.9)
    assert adamw.param_groups[1]["lr"] == 0.5
    sgd = make_optimizer(small_model(), training(optimizer="sgd", momentum=0.7, weight_decay=0.0))
    assert isinstance(sgd, torch.optim.SGD)
    assert [(group["momentum"], group["weight_decay"]) for group in sgd.param_groups] == [(0.7, 0.0)] * 2


# ---- schedules ----


def rates(total_steps: int, **fields: Any) -> list[float]:
    """Return the learning rate of each step, of a peak of 2, and the one after the last."""
    section = training(optimizer="sgd", learning_rate=2.0, **fields)
    optimizer = make_optimizer(nn.Linear(1, 1), section)
    scheduler = make_scheduler(optimizer, section, total_steps, steps_per_epoch=1)
    found = []
    for _ in range(total_steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_warm_up_then_cosine() -> None:
    # 2 of 10 epochs are 2 of 10 steps: 1/2 and 2/2 of the peak; then (1 + cos(π·k/8)) / 2 for k = 0 … 8
    found = rates(10, warmup_epochs=2.0, schedule="cosine")
    assert found[:3] == pytest.approx([1.0, 2.0, 2.0])
    assert found[4] == pytest.approx(1 + math.sqrt(0.5))  # k = 2: cos 45°
    assert found[6] == pytest.approx(1.0)  # k = 4: cos 90° = 0
    assert found[8] == pytest.approx(1 - math.sqrt(0.5))
    assert found[10] == pytest.approx(0.0, abs=1e-12)


def test_linear_and_constant() -> None:
    # 4 steps down: 1, 3/4, 2/4, 1/4, 0 of the peak
    assert rates(4, schedule="linear") == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    assert rates(4, schedule="constant", warmup_epochs=5.0) == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0])


def test_warm_up_counts_epochs_not_steps() -> None:
    # a quarter of 10 epochs is a quarter of 8 steps
    assert rates(8, warmup_epochs=2.5, schedule="constant")[:3] == pytest.approx([1.0, 2.0, 2.0])


def test_warm_up_longer_than_training() -> None:
    assert rates(4, warmup_epochs=1000.0) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


# ---- meters ----


def outputs(loss: float, balance: float) -> SimpleNamespace:
    return SimpleNamespace(loss=torch.tensor(loss, requires_grad=True), balance_loss=torch.tensor(balance))


def test_meter_means() -> None:
    meter = Meter(operations=3)
    assert meter.means() == {}
    meter.update(outputs(2.0, 4.0), torch.tensor(1), 2)
    meter.update(outputs(1.0, 5.0), torch.tensor(1), 1)
    assert meter.means() == pytest.approx({"loss": 1.5, "balance_loss": 4.5 / 3, "accuracy": 2 / 3})
    assert isinstance(meter.loss, torch.Tensor)
    assert not meter.loss.requires_grad  # or every batch's graph would be kept


def test_meter_without_predictions_has_no_accuracy() -> None:
    meter = Meter(operations=2)
    meter.update(outputs(2.0, 4.0), torch.tensor(0), 0)
    assert meter.means() == {"loss": 2.0, "balance_loss": 2.0}


def test_meter_of_a_dense_model_has_no_balance_loss() -> None:
    meter = Meter(operations=0)
    meter.update(outputs(2.0, 0.0), torch.tensor(1), 1)
    assert meter.means() == {"loss": 2.0, "accuracy": 1.0}


class FakeTime:
    """A clock that stands still until it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(callbacks_module.time, "perf_counter", lambda: self.now)


def test_clock_tells_the_step_from_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(monkeypatch)
    clock, state, control = Clock(), TrainerState(), TrainerControl()
    args: Any = None
    clock.on_train_begin(args, state, control)
    for epoch in range(2):
        time.now += 50  # evaluation and saving of the epoch before: in neither
        clock.on_epoch_begin(args, state, control)
        for _ in range(3):
            time.now += 1
            clock.on_step_begin(args, state, control)
            time.now += 4
            clock.on_step_end(args, state, control)
        assert clock.outside == 3 * (epoch + 1)
        assert clock.in_step == 12 * (epoch + 1)
    assert clock.outside_fraction == pytest.approx(6 / 30)
    assert clock.seconds == 130


def test_clock_goes_on_where_the_interrupted_run_was(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(monkeypatch)
    clock, args = Clock(), None
    state = TrainerState(log_history=[{"seconds": 5.0}, {"seconds": 9.0}, {"eval_accuracy": 1.0}])
    clock.on_train_begin(args, state, TrainerControl())  # type: ignore[arg-type]
    time.now += 2
    assert clock.seconds == 11.0
