"""A recipe becomes a run folder: what it holds, what it never does, and that nothing is lost on the way."""

import errno
import io
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging

from widenet.convert.folder import load_model
from widenet.data.images.load import ArrayImages
from widenet.errors import WideNetError
from widenet.models.vision import WideNetForImageClassification
from widenet.recipes import Recipe, load_recipe
from widenet.reports import read_scalars, write_report
from widenet.runs.evaluate import evaluate_run
from widenet.runs.run import Run
from widenet.tasks import images as images_module
from widenet.tasks.images import ImageClassification
from widenet.training import run as run_module
from widenet.training.callbacks import Clock
from widenet.training.progress import ProgressLine
from widenet.training.run import Interrupted, train
from widenet.training.trainer import TaskTrainer

# 5 steps an epoch; every kind of randomness that a step can have
IMAGE = ["model.image_size=8", "model.patch_size=2"]
TINY = [
    *IMAGE,
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=2",
    "model.intermediate_size=32",
    "model.hidden_dropout_prob=0.1",
    "training.batch_size=256",
    "training.learning_rate=3e-3",
    "training.warmup_epochs=1",
    "training.mixup=0.2",
    "training.label_smoothing=0.1",
    "training.early_stopping_patience=0",
    "data.augment.shift=0.1",
    "data.augment.rotate=10",
    "epochs=2",
]
TIMES = ("seconds", "examples_per_second", "outside_step_fraction")  # of no two runs equal


def recipe(*overrides: str) -> Recipe:
    return load_recipe("digits", [*TINY, *overrides])


def comparable(metrics: Any) -> Any:
    """Return nested metrics without those that are of no two runs equal."""
    if not isinstance(metrics, dict):
        return metrics
    return {key: comparable(value) for key, value in metrics.items() if key not in TIMES}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def refusal(*arguments: Any, **options: Any) -> str:
    """Return the message with which training is refused, which must be one line."""
    with pytest.raises(WideNetError) as caught:
        train(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def interrupt_in_step(monkeypatch: pytest.MonkeyPatch, *steps: int, times: int = 1) -> None:
    """Let Ctrl-C arrive during these steps, counted from 1."""

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 in steps:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Clock, "on_step_begin", on_step_begin)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run of two epochs, not to be changed, and what train() returned."""
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, train(recipe(), folder)


@pytest.fixture
def copy(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return shutil.copytree(run[0], tmp_path / "copy")


# ---- what a run leaves ----


def test_a_run_leaves_every_file(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "recipe.yaml",
        "metrics.json",
        "README.md",
        "logs",
        "checkpoints",
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"checkpoint-5", "checkpoint-10"}
    assert any((folder / "logs").rglob("events.out.tfevents.*"))
    assert load_recipe(str(folder / "recipe.yaml")) == recipe()
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["crop_size"] == {"height": 8, "width": 8}
    config = json.loads((folder / "config.json").read_text())
    assert list(config["id2label"].values()) == list("0123456789")


def test_metrics_are_complete_and_consistent(run: tuple[Path, dict[str, Any]]) -> None:
    folder, returned = run
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(returned))
    assert set(metrics) == {
        *("recipe", "task", "headline", "model", "test", "validation", "training", "split", "versions", "commit")
    }
    model, test, training = metrics["model"], metrics["test"][""], metrics["training"]
    assert set(model) == {"name", "parameters", "active_parameters", "flops", "active_flops"}
    assert set(metrics["test"]) == {""}
    assert set(test) == {
        *("accuracy", "top5_accuracy", "loss", "class_accuracy", "balance_loss", "expert_load"),
        *("examples", "examples_per_second"),
    }
    assert set(metrics["validation"]) == {"accuracy", "cross_entropy", "loss"}
    assert set(training) == {
        *("seconds", "steps", "epochs", "best_epoch", "processes", "batch_size", "seed"),
        *("outside_step_fraction", "command"),
    }
    assert (metrics["recipe"], metrics["task"], metrics["headline"]) == (
        "digits",
        "image-classification",
        ["accuracy"],
    )
    assert (model["name"], training["seed"]) == ("widenet-digits", 0)
    assert model["parameters"] == sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert model["active_parameters"] < model["parameters"]
    assert model["active_flops"] <= model["flops"]
    assert (training["epochs"], training["steps"], test["examples"]) == (2.0, 10, 359)
    assert (training["processes"], training["batch_size"], training["command"]) == (1, 256, None)
    assert 0 <= test["accuracy"] <= test["top5_accuracy"] <= 1
    assert len(test["class_accuracy"]) == 10
    assert len(test["expert_load"]) == 2
    for shares in test["expert_load"]:
        assert sum(shares) == pytest.approx(1)
    assert metrics["split"]["sizes"] == {"train": 1294, "validation": 144, "test": 359}
    assert test["balance_loss"] >= 0.99  # per routing operation; 1 is balanced


def test_the_command_is_recorded(tmp_path: Path) -> None:
    metrics = train(recipe("epochs=0.2"), tmp_path, command="widenet train digits epochs=0.2")
    assert metrics["training"]["command"] == "widenet train digits epochs=0.2"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_the_weights_may_be_read_by_whom_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        train(recipe("epochs=0.2"), tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()}
    assert modes["model.safetensors"] == mode
    assert set(modes.values()) == {mode}


def test_tensorboard_logs_hold_the_curves(run: tuple[Path, dict[str, Any]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run[0] / "logs")).Reload()
    for tag in ("train/loss", "train/balance_loss", "train/accuracy", "eval/accuracy"):
        assert [event.step for event in events.Scalars(tag)] == [5, 10]


def test_training_learns(tmp_path: Path) -> None:
    plain = ["training.mixup=0", "training.label_smoothing=0", "data.augment.warp=0"]
    fast = ["epochs=6", "training.batch_size=64", "training.learning_rate=1e-2", "training.max_grad_norm=0"]
    assert train(recipe(*plain, *fast), tmp_path / "out")["test"][""]["accuracy"] > 0.5  # and 0.1 by guessing


def test_the_console_gets_a_line_per_epoch(tmp_path: Path) -> None:
    text = io.StringIO()
    train(recipe(), tmp_path / "out", console=Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("digits: widenet-digits, ")
    assert "1,294 images to train on, 144 to validate, 359 to test" in lines[0]
    assert len(lines) == 3
    for line in lines[1:]:
        for part in ("loss", "balance loss", "training accuracy", "validation accuracy"):
            assert part in line


def test_the_progress_bar_shows_speed(tmp_path: Path) -> None:
    text = io.StringIO()
    train(recipe(), tmp_path / "out", console=Console(file=text, width=200, force_terminal=True))
    assert "images/s" in text.getvalue()
    assert "10/10" in text.getvalue()


def test_without_a_terminal_a_plain_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = io.StringIO()
    monkeypatch.setattr(run_module, "ProgressLine", partial(ProgressLine, seconds_between_lines=0))
    train(recipe(), tmp_path / "out", console=Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == [f"{step}/10" for step in range(1, 11)]
    for line in steps:
        numbers = r"loss \d+\.\d{3}  balance loss \d\.\d{3}  training accuracy \d+\.\d{2}%  [\d,]+ images/s  .+ left"
        assert re.fullmatch(rf"step \d+/10  {numbers}", line)
    assert len(lines) == 1 + 10 + 2  # the others as ever
    # the balance loss is the mean of the two blocks, where 1 is balanced, not their sum
    assert all(0.99 <= float(line.split("balance loss ")[1].split()[0]) < 1.9 for line in steps)


def test_a_narrow_terminal_keeps_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text, frames = io.StringIO(), []
    on_step_end = ProgressLine.on_step_end

    def render(self: ProgressLine, *args: Any, **kwargs: Any) -> None:
        on_step_end(self, *args, **kwargs)
        shown = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
        shown.print(self.bar.get_renderable())
        frames.append(shown.file.getvalue().rstrip("\n"))  # type: ignore[attr-defined]

    monkeypatch.setattr(ProgressLine, "on_step_end", render)
    few = ["training.batch_size=32", "epochs=1", "data.augment.warp=0"]
    train(recipe(*few), tmp_path / "out", console=Console(file=text, width=80, force_terminal=True))
    assert len(frames) == 40
    assert "…" in frames[-1]  # there is more to say than fits
    for frame in frames:
        assert "\n" not in frame
        assert len(frame) <= 80
        assert re.search(r" (\d+:)?(\d\d|--):(\d\d|--)$", frame), frame
    assert re.search(r"\d\d:\d\d$", frames[29])  # known, once there is a pace to tell it by


def test_transformers_speaks_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        train(recipe("epochs=0.2"), tmp_path / "out")
        assert logging.get_verbosity() == logging.INFO
        with monkeypatch.context() as patch:
            fail_to_save(patch, 1, RuntimeError("a bug"))
            with pytest.raises(RuntimeError, match="a bug"):
                train(recipe("epochs=0.2"), tmp_path / "failed")
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity(before)


def test_the_logs_are_closed_when_training_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = []

    class Writer(run_module.SummaryWriter):
        def close(self) -> None:
            closed.append(self.log_dir)
            super().close()

    monkeypatch.setattr(run_module, "SummaryWriter", Writer)
    fail_to_save(monkeypatch, 5, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        train(recipe(), tmp_path)
    assert closed == [str(tmp_path / "logs")]
    assert "train/loss" in read_scalars(tmp_path / "logs")


# ---- the parts of the data ----


class Guarded(ArrayImages):
    """Images that count how often each is looked at, and may be shut away."""

    def __init__(self, images: ArrayImages, shut: bool = False) -> None:
        super().__init__(images.pixels, images.labels)
        self.seen = np.zeros(len(images), int)
        self.shut = shut

    def image(self, index: int) -> Image.Image:
        assert not self.shut, "looked at before its time"
        self.seen[index] += 1
        return super().image(index)


def test_test_images_are_not_looked_at_before_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = images_module.load_images(recipe().data)
    assert isinstance(data.test, ArrayImages)
    assert isinstance(data.validation, ArrayImages)
    test, validation = Guarded(data.test, shut=True), Guarded(data.validation)
    monkeypatch.setattr(images_module, "load_images", lambda _: replace(data, test=test, validation=validation))
    evaluate, steps_done = ImageClassification.test, []

    def evaluate_at_last(task: ImageClassification) -> dict[str, Any]:
        assert task.data.test is test
        steps_done.append((Run(tmp_path / "out").last_checkpoint() or Path()).name)
        test.shut = False
        return evaluate(task)

    monkeypatch.setattr(ImageClassification, "test", evaluate_at_last)
    train(recipe(), tmp_path / "out")
    assert steps_done == ["checkpoint-10"]
    assert test.seen.tolist() == [1] * 359
    assert validation.seen.tolist() == [2] * 144  # once an epoch, every image


def validate_as(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> None:
    """Let validation find these accuracies, epoch by epoch."""
    given = iter(accuracies)

    def validate(_: Any) -> dict[str, float]:
        value = next(given)
        return {"accuracy": value, "selection": value}

    monkeypatch.setattr(ImageClassification, "validate", validate)


def test_validation_picks_the_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    validate_as(monkeypatch, [0.5, 0.9, 0.1, 0.2])
    metrics = train(recipe("epochs=4"), tmp_path)
    assert (metrics["training"]["best_epoch"], metrics["training"]["steps"]) == (2.0, 20)
    assert metrics["validation"] == {"accuracy": 0.9}
    # the best is kept although two later ones were saved, and it is what the run holds
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-10", "checkpoint-20"}
    found = load_file(tmp_path / "model.safetensors")
    best, last = (load_file(tmp_path / f"checkpoints/checkpoint-{step}/model.safetensors") for step in (10, 20))
    assert all(torch.equal(tensor, best[name]) for name, tensor in found.items())
    assert not torch.equal(found["classifier.weight"], last["classifier.weight"])


def test_early_stopping(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    validate_as(monkeypatch, [0.9, 0.5, 0.4, 0.3, 0.2])
    metrics = train(recipe("epochs=5", "training.early_stopping_patience=2"), tmp_path)
    found = metrics["training"]
    assert (found["best_epoch"], found["epochs"], found["steps"]) == (1.0, 3.0, 15)


def test_a_diverged_run_ends_in_numbers_or_one_line(tmp_path: Path) -> None:
    hopeless = ["training.optimizer=sgd", "training.learning_rate=1e30", "training.max_grad_norm=0"]
    try:
        metrics = train(recipe(*hopeless, "training.mixup=0"), tmp_path)
    except WideNetError as error:
        assert "\n" not in str(error)
    else:
        assert 0 <= metrics["test"][""]["accuracy"] < 0.5


# ---- the same again ----


def test_same_seed_same_run(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, metrics = run
    torch.manual_seed(99)  # what happened before must not matter
    again = train(recipe(), tmp_path / "again")
    assert weights(tmp_path / "again") == weights(folder)
    assert comparable(again) == comparable(metrics)


def test_other_seed_other_run(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    metrics = train(recipe("seed=1"), tmp_path / "other")
    assert weights(tmp_path / "other") != weights(run[0])
    assert metrics["split"] == run[1]["split"]  # which has a seed of its own


def test_worker_processes_do_not_change_the_run(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    train(recipe("data.num_workers=1"), tmp_path / "out")
    assert weights(tmp_path / "out") == weights(run[0])


def test_gradient_checkpointing_does_not_change_the_run(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    train(recipe("training.gradient_checkpointing=true"), tmp_path / "out")
    expected = load_file(run[0] / "model.safetensors")
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        assert torch.allclose(tensor, expected[name], atol=1e-5), name


# ---- batches ----


def test_gradient_accumulation(tmp_path: Path) -> None:
    # 1294 images are 20 batches of 64 and so 7 steps of up to 3 batches
    metrics = train(recipe("training.batch_size=64", "training.gradient_accumulation_steps=3", "epochs=1"), tmp_path)
    assert metrics["training"]["steps"] == 7


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path: Path) -> None:
    # nothing random and nothing that looks at the whole batch: λ = 0 and no dropping
    plain = [
        *("model.hidden_dropout_prob=0", "model.capacity_factor=null", "model.router_noise_std=0"),
        *("model.router_aux_loss_coef=0", "training.mixup=0", "data.augment.shift=0", "data.augment.rotate=0"),
        *("data.augment.zoom=0", "training.optimizer=sgd", "epochs=1", "training.warmup_epochs=0"),
    ]
    train(recipe(*plain, "training.batch_size=128"), tmp_path / "large")
    accumulated = ["training.batch_size=64", "training.gradient_accumulation_steps=2"]
    train(recipe(*plain, *accumulated), tmp_path / "small")
    expected = load_file(tmp_path / "large/model.safetensors")
    for name, tensor in load_file(tmp_path / "small/model.safetensors").items():
        assert torch.allclose(tensor, expected[name], atol=1e-5), name


@pytest.mark.parametrize(("batch_size", "steps"), [(255, 5), (5000, 1)])
def test_odd_and_overlarge_batches(tmp_path: Path, batch_size: int, steps: int) -> None:
    # mixup pairs images: 255 becomes 254, of which 1294 hold 5; a batch is never larger than the set
    assert train(recipe(f"training.batch_size={batch_size}", "epochs=1"), tmp_path)["training"]["steps"] == steps


def test_half_an_epoch(tmp_path: Path) -> None:
    metrics = train(recipe("epochs=0.5"), tmp_path)
    assert (metrics["training"]["steps"], metrics["training"]["epochs"]) == (3, 0.6)


def test_bfloat16(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    # device=auto: the recipe for ImageNet must also start where there is no GPU
    metrics = train(recipe("training.precision=bf16", "training.device=auto", "epochs=1"), tmp_path)
    assert math.isfinite(metrics["test"][""]["loss"])
    tensors = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    other = load_file(run[0] / "checkpoints/checkpoint-5/model.safetensors")
    assert not torch.equal(tensors["classifier.weight"], other["classifier.weight"])


def test_float16_needs_a_gpu(tmp_path: Path) -> None:
    # on a CPU it would be ignored in silence
    message = refusal(recipe("training.precision=fp16", "training.device=cpu"), tmp_path / "out")
    assert "training.precision=fp16" in message
    assert not (tmp_path / "out").exists()


# ---- interrupting and going on ----

PER_IMAGE = [
    *("training.batch_size=64", "training.gradient_accumulation_steps=4", "training.cutmix=1.0"),
    *("data.augment.auto_augment=rand-m9-mstd0.5", "data.augment.erase=0.5"),
]


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run") / "accumulated"
    return folder, train(recipe(*PER_IMAGE), folder)


def interrupted(
    monkeypatch: pytest.MonkeyPatch, chosen: Recipe, folder: Path, step: int, resume: bool = False
) -> None:
    """Train until Ctrl-C arrives in this step."""
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, step)
        with pytest.raises(Interrupted):
            train(chosen, folder, resume=resume)
    checkpoint = Run(folder).last_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{step}"
    assert not (folder / "metrics.json").exists()


@pytest.mark.parametrize("step", [1, 5, 7, 10])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    monkeypatch: pytest.MonkeyPatch, run: tuple[Path, dict[str, Any]], tmp_path: Path, step: int
) -> None:
    # in the middle of an epoch, at the end of one, and in the very last step
    interrupted(monkeypatch, recipe(), tmp_path / "out", step)
    metrics = train(recipe(), tmp_path / "out", resume=True)
    assert weights(tmp_path / "out") == weights(run[0])
    assert comparable(metrics) == comparable(run[1])


def test_the_same_with_worker_processes(
    monkeypatch: pytest.MonkeyPatch, run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    chosen = recipe("data.num_workers=1")
    interrupted(monkeypatch, chosen, tmp_path / "out", 5)
    train(chosen, tmp_path / "out", resume=True)
    assert weights(tmp_path / "out") == weights(run[0])


def test_the_same_with_accumulation_and_per_image_augmentation(
    monkeypatch: pytest.MonkeyPatch, accumulated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    interrupted(monkeypatch, recipe(*PER_IMAGE), tmp_path / "out", 3)
    interrupted(monkeypatch, recipe(*PER_IMAGE), tmp_path / "out", 7, resume=True)
    metrics = train(recipe(*PER_IMAGE), tmp_path / "out", resume=True)
    assert weights(tmp_path / "out") == weights(accumulated[0])
    assert comparable(metrics) == comparable(accumulated[1])


def test_an_interruption_does_not_take_part_in_choosing(
    monkeypatch: pytest.MonkeyPatch, run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    interrupted(monkeypatch, recipe(), tmp_path / "out", 7)
    state = json.loads((tmp_path / "out/checkpoints/checkpoint-7/trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_accuracy" in entry] == [5]


def test_interrupted_during_validation(
    monkeypatch: pytest.MonkeyPatch, run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ProgressLine, "on_evaluate", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            train(recipe(), tmp_path / "out")
    assert train(recipe(), tmp_path / "out", resume=True)["test"][""]["accuracy"] == run[1]["test"][""]["accuracy"]
    assert weights(tmp_path / "out") == weights(run[0])


def test_a_second_interrupt_stops_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 7, times=2)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), tmp_path / "out")
    assert signal.getsignal(signal.SIGINT) is before
    checkpoint = Run(tmp_path / "out").last_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-5"


def test_seconds_are_of_the_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interrupted(monkeypatch, recipe(), tmp_path, 3)
    file = tmp_path / "checkpoints/checkpoint-3/trainer_state.json"
    state = json.loads(file.read_text())
    (entry,) = [entry for entry in state["log_history"] if "seconds" in entry]
    entry["seconds"] += 1000
    file.write_text(json.dumps(state))
    assert train(recipe(), tmp_path, resume=True)["training"]["seconds"] > 1000


@pytest.mark.parametrize("step", [7, 15])
def test_a_moved_run_keeps_its_best_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int) -> None:
    # before the last epoch, and after the last step, when nothing is left to save
    with monkeypatch.context() as patch:
        validate_as(patch, [0.9, 0.1, 0.2])
        interrupted(patch, recipe("epochs=3"), tmp_path / "here", step)
    (tmp_path / "here").rename(tmp_path / "there")
    validate_as(monkeypatch, [0.2, 0.3])
    metrics = train(recipe("epochs=3"), tmp_path / "there", resume=True)
    assert (metrics["training"]["best_epoch"], metrics["validation"]["accuracy"]) == (1.0, 0.9)
    best = load_file(tmp_path / "there/checkpoints/checkpoint-5/model.safetensors")
    assert torch.equal(load_file(tmp_path / "there/model.safetensors")["classifier.weight"], best["classifier.weight"])


@pytest.mark.parametrize("step", [3, 7])
def test_an_interrupted_run_can_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int) -> None:
    # before the first validation its only checkpoint, then the best one, of the end of the first epoch
    folder, best = tmp_path / "out", f"checkpoint-{3 if step == 3 else 5}"
    interrupted(monkeypatch, recipe(), folder, step)
    run = Run(folder)
    assert not run.is_finished
    assert run.model_folder.name == best
    expected = load_file(folder / "checkpoints" / best / "model.safetensors")
    model = run.model()
    assert isinstance(model, WideNetForImageClassification)
    assert not model.training
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())

    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(image)
    (prediction,) = run.predict([image], top=10)
    pixels = run.processor()(Image.open(image).convert("RGB"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        shares = model(pixels).logits.softmax(-1)[0].tolist()
    assert dict(prediction.answers) == pytest.approx(dict(zip("0123456789", shares, strict=True)), abs=1e-6)

    assert "interrupted" in write_report(folder).read_text(encoding="utf-8")  # nothing is tested yet
    metrics = evaluate_run(folder, [])
    assert metrics == run.metrics
    assert metrics["test"][""]["examples"] == 359
    page = write_report(folder).read_text(encoding="utf-8")
    assert f"{metrics['test']['']['accuracy']:.2%}" in page


def test_an_interrupted_run_without_a_checkpoint_has_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 2, times=2)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), tmp_path)
    with pytest.raises(WideNetError, match="has no model: training stopped before the first checkpoint"):
        Run(tmp_path).model()


def test_an_interrupted_run_that_was_tested_goes_on_all_the_same(
    monkeypatch: pytest.MonkeyPatch, run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    interrupted(monkeypatch, recipe(), tmp_path, 7)
    evaluate_run(tmp_path, [])
    assert comparable(train(recipe(), tmp_path, resume=True)) == comparable(run[1])
    assert weights(tmp_path) == weights(run[0])


def test_a_finished_run_goes_on_for_longer(run: tuple[Path, dict[str, Any]], copy: Path) -> None:
    metrics = train(recipe("epochs=3"), copy, resume=True)
    assert (metrics["training"]["steps"], metrics["training"]["epochs"]) == (15, 3.0)
    assert Run(copy).recipe == recipe("epochs=3")
    assert weights(copy) != weights(run[0])
    assert list(read_scalars(copy / "logs")["train/loss"]) == [5, 10, 15]


def test_steps_may_grow_too(tmp_path: Path) -> None:
    train(recipe("training.max_steps=2"), tmp_path)
    assert train(recipe("training.max_steps=3"), tmp_path, resume=True)["training"]["steps"] == 3
    assert "training.max_steps=3, not 2" in refusal(recipe("training.max_steps=2"), tmp_path, resume=True)
    # 0: epochs decide, of which there are more
    assert train(recipe(), tmp_path, resume=True)["training"]["steps"] == 10


def test_an_interrupted_run_goes_on_for_longer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interrupted(monkeypatch, recipe(), tmp_path, 7)
    metrics = train(recipe("epochs=3"), tmp_path, resume=True)
    assert (metrics["training"]["steps"], metrics["training"]["epochs"]) == (15, 3.0)


def test_resuming_a_finished_run_changes_nothing(run: tuple[Path, dict[str, Any]], copy: Path) -> None:
    metrics = train(recipe(), copy, resume=True)
    assert comparable(metrics) == comparable(run[1])
    assert weights(copy) == weights(run[0])


def truncate(checkpoint: Path, name: str) -> None:
    data = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(data[: len(data) // 2])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "truncated weights": lambda checkpoint: truncate(checkpoint, "model.safetensors"),
    "truncated optimizer": lambda checkpoint: truncate(checkpoint, "optimizer.pt"),
    "truncated state": lambda checkpoint: truncate(checkpoint, "trainer_state.json"),
    "no weights": lambda checkpoint: (checkpoint / "model.safetensors").unlink(),
    "no state": lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
    "no schedule": lambda checkpoint: (checkpoint / "scheduler.pt").unlink(),
    "no random numbers": lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
    "nothing": lambda checkpoint: [file.unlink() for file in checkpoint.iterdir()] and None,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_incomplete_checkpoint_is_passed_over(copy: Path, damage: str) -> None:
    newest = copy / "checkpoints/checkpoint-10"
    assert Run(copy).last_checkpoint() == newest
    DAMAGE[damage](newest)
    assert Run(copy).last_checkpoint() == copy / "checkpoints/checkpoint-5"


def test_checkpoints_are_ordered_by_number(copy: Path) -> None:
    # as text, checkpoint-5 comes after checkpoint-10; and a copy that somebody made is not in the way
    shutil.copytree(copy / "checkpoints/checkpoint-5", copy / "checkpoints/checkpoint-5.bak")
    assert Run(copy).last_checkpoint() == copy / "checkpoints/checkpoint-10"


def test_resuming_from_before_an_incomplete_checkpoint(run: tuple[Path, dict[str, Any]], copy: Path) -> None:
    for name in ("metrics.json", "model.safetensors"):
        (copy / name).unlink()
    truncate(copy / "checkpoints/checkpoint-10", "model.safetensors")
    metrics = train(recipe(), copy, resume=True)
    assert comparable(metrics) == comparable(run[1])
    assert weights(copy) == weights(run[0])


def test_nothing_to_resume(copy: Path, tmp_path: Path) -> None:
    assert "nothing to resume" in refusal(recipe(), tmp_path / "none", resume=True)
    (tmp_path / "empty").mkdir()
    assert "nothing to resume" in refusal(recipe(), tmp_path / "empty", resume=True)
    shutil.rmtree(copy / "checkpoints")
    assert "no complete checkpoint" in refusal(recipe(), copy, resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs=1", "training.epochs=2.0, not 1.0; it may only grow"),
        ("training.max_steps=5", "training.max_steps=0, not 5; it may only grow"),
        ("seed=1", "seed=0, not 1"),
        ("model.num_experts=8", "model.num_experts=None, not 8"),
        ("data.augment.flip=0.5", "data.augment.flip=0.0, not 0.5"),
    ],
)
def test_resume_with_other_settings(run: tuple[Path, dict[str, Any]], override: str, expected: str) -> None:
    before = contents(run[0])
    assert expected in refusal(recipe(override), run[0], resume=True)
    assert contents(run[0]) == before


# ---- the output folder ----


def test_a_run_is_not_replaced_unasked(run: tuple[Path, dict[str, Any]]) -> None:
    before = contents(run[0])
    message = refusal(recipe(), run[0])
    assert "--resume" in message
    assert "--overwrite" in message
    assert "exclude each other" in refusal(recipe(), run[0], resume=True, overwrite=True)
    assert contents(run[0]) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_not_a_run_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "not empty" in refusal(recipe(), tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    train(recipe("epochs=1"), tmp_path)
    assert (tmp_path / "metrics.json").is_file()


def test_overwrite_starts_anew(run: tuple[Path, dict[str, Any]], copy: Path) -> None:
    (copy / "report.html").write_text("old")
    metrics = train(recipe("epochs=1"), copy, overwrite=True)
    assert metrics["training"]["epochs"] == 1.0
    assert not (copy / "report.html").exists()
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {"checkpoint-5"}
    assert len(list((copy / "logs").iterdir())) == 1


def test_overwrite_through_a_link(copy: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(copy, target_is_directory=True)
    assert train(recipe("epochs=1"), link, overwrite=True)["training"]["epochs"] == 1.0
    assert link.is_symlink()
    assert Run(copy).metrics["training"]["epochs"] == 1.0


@pytest.mark.parametrize(
    "mistake",
    [
        "model=widenet-digit",
        "model=./no/such/model",
        "model.num_experts_per_tok=9",
        "model.patch_size=3",
        "model.num_labels=3",
        "data=digit",
        "data=./no/such/folder",
        "data.test_fraction=0.999",
    ],
)
def test_overwrite_with_a_mistake_keeps_the_old_run(run: tuple[Path, dict[str, Any]], mistake: str) -> None:
    before = contents(run[0])
    refusal(recipe(mistake), run[0], overwrite=True)
    assert contents(run[0]) == before


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_output_that_cannot_be_a_folder(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("x")
    assert "file" in refusal(recipe(), tmp_path / output)
    assert (tmp_path / "file").read_text() == "x"


# ---- a full disk ----

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0"),
    RuntimeError("[enforce fail at inline_container.cc:858] . unexpected pos 64 vs 0"),
]


def fail_to_save(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception) -> None:
    """Let the checkpoint of this step break off in its first file."""
    save = TaskTrainer._save_checkpoint

    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == step:
            folder = Path(self.args.output_dir) / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(b"\x10\x00")
            raise error
        save(self, *args, **kwargs)

    monkeypatch.setattr(TaskTrainer, "_save_checkpoint", broken)


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:40])
def test_a_full_disk_is_one_line_that_names_the_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch, run: tuple[Path, dict[str, Any]], tmp_path: Path, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        fail_to_save(patch, 10, error)
        message = refusal(recipe(), tmp_path)
    assert "no space left" in message
    assert "--resume" in message
    assert "checkpoint-5" in message
    if error is FULL[0]:  # and that is true
        train(recipe(), tmp_path, resume=True)
        assert weights(tmp_path) == weights(run[0])


def test_a_full_disk_before_the_first_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail_to_save(monkeypatch, 5, FULL[0])
    assert "no checkpoint was saved" in refusal(recipe(), tmp_path)


def test_a_full_disk_at_the_very_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write_text(self: Path, *_: Any, **__: Any) -> int:
        raise FULL[0]

    monkeypatch.setattr(Path, "write_text", write_text)
    assert "no space left" in refusal(recipe(), tmp_path / "out")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EIO, "Input/output error")])
def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    fail_to_save(monkeypatch, 5, error)
    with pytest.raises(type(error)) as caught:
        train(recipe(), tmp_path)
    assert caught.value is error


# ---- fine-tuning ----


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    train(recipe("epochs=1", "model.use_representation=true"), folder)
    return folder


FROZEN = ["training.learning_rate=1e-30", "training.weight_decay=0", "epochs=0.2"]  # what it starts from


def start(tmp_path: Path, pretrained: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """Return the weights that fine-tuning starts from."""
    without = IMAGE + [override for override in TINY if not override.startswith("model.")]
    train(load_recipe("digits", [*without, f"model={pretrained}", *FROZEN, *overrides]), tmp_path / "tuned")
    return load_file(tmp_path / "tuned/model.safetensors")


def test_fine_tuning_keeps_what_fits(pretrained: Path, tmp_path: Path) -> None:
    before = load_file(pretrained / "model.safetensors")
    after = start(tmp_path, pretrained, "model.use_representation=false")
    dropped = {"model.representation.weight", "model.representation.bias"}
    assert set(before) - set(after) == dropped
    for name, tensor in after.items():  # the head, too: the classes are the same
        assert torch.equal(tensor, before[name]), name


def test_fine_tuning_on_other_classes_at_another_size(pretrained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(8):
            image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
            image.save(tmp_path / "photos" / name / f"{index}.png")
    before = load_file(pretrained / "model.safetensors")
    data = f"data={tmp_path / 'photos'}"
    after = start(tmp_path, pretrained, data, "model.image_size=16", "model.use_representation=false")
    assert after["classifier.weight"].shape == (3, 32)
    positions = "model.embeddings.position_embeddings"
    assert (before[positions].shape, after[positions].shape) == ((1, 16, 32), (1, 64, 32))
    assert after[positions].mean() == pytest.approx(before[positions].mean().item(), abs=1e-3)
    assert torch.equal(after["model.encoder.experts.0.up_proj"], before["model.encoder.experts.0.up_proj"])
    assert list(load_model(tmp_path / "tuned", WideNetForImageClassification).config.id2label.values()) == [
        "cat",
        "dog",
        "owl",
    ]


def test_fine_tuning_that_does_not_fit(pretrained: Path, tmp_path: Path) -> None:
    without = IMAGE + [override for override in TINY if not override.startswith("model.")]
    for mistake, expected in (
        ("model.hidden_size=64", "model.hidden_size=64"),
        ("model.num_experts=8", "model.num_experts=8"),
        ("model.pooling=cls", "model.pooling=cls"),
        ("model.patch_size=4", "model.patch_size=4"),
        ("model.hiden_size=3", "'hidden_size'"),
    ):
        chosen = load_recipe("digits", [*without, f"model={pretrained}", mistake])
        assert expected in refusal(chosen, tmp_path / "out")
        assert not (tmp_path / "out").exists()


# ---- what must not happen ----


def test_overwrite_does_not_delete_its_own_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(recipe(), tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    for override in (f"model={tmp_path / 'out'}", f"data={tmp_path / 'out' / 'logs'}"):
        with pytest.raises(WideNetError, match="--overwrite would delete"):
            train(recipe(override), tmp_path / "out", overwrite=True)
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(WideNetError, match="the current folder"):
        train(recipe(), Path("."), overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_a_folder_with_a_recipe_file_of_the_user_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe().dump(), encoding="utf-8")
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(WideNetError, match="holds no run"):
        train(recipe(), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(WideNetError, match="several processes"):
        train(recipe(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
