"""The learning curves, from the TensorBoard logs of a run."""

import math
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from widenet.analysis.report.figures import Points, line_plot, svg_figure
from widenet.config import WideNetVisionConfig

CURVES = ("train/loss", "eval/loss", "train/accuracy", "eval/accuracy", "train/balance_loss")


def read_scalars(logs: Path) -> dict[str, Points]:
    """Return every scalar in a folder of TensorBoard logs: tag → {step: value}, by ascending step.

    A resumed run has several log files; where they overlap the later one counts.
    """
    if not any(logs.glob("*tfevents*")):
        return {}
    accumulator = EventAccumulator(str(logs), size_guidance={SCALARS: 0})  # 0: keep every event
    accumulator.Reload()
    found = {}
    for tag in accumulator.Tags()[SCALARS]:
        events = sorted(accumulator.Scalars(tag), key=lambda event: event.wall_time)
        latest = {float(event.step): float(event.value) for event in events}
        found[tag] = dict(sorted(latest.items()))
    return found


def learning_curves(logs: Path, config: WideNetVisionConfig | None, metrics: dict[str, Any]) -> str:
    scalars = read_scalars(logs)
    epochs = scalars.get("train/epoch", {})
    finite = {
        tag: {step: value for step, value in points.items() if math.isfinite(value)} for tag, points in scalars.items()
    }
    steps = {step for tag in CURVES for step in finite.get(tag, {})}
    if not steps:
        return "<p>Left out: the run folder holds no TensorBoard logs of its training.</p>"
    by_epoch = steps <= epochs.keys()
    place = epochs if by_epoch else {step: step for step in steps}
    curves = {tag: {place[step]: value for step, value in finite.get(tag, {}).items()} for tag in CURVES}
    axis = "epoch" if by_epoch else "step"
    best = metrics.get("best_epoch") if by_epoch else None

    figures = []
    losses = {"training": curves["train/loss"], "validation": curves["eval/loss"]}
    if any(losses.values()):
        caption = (
            "The loss that is minimised: cross-entropy plus the weighted balance loss. In training it also "
            "feels augmentation, mixup and label smoothing, where the recipe uses them."
        )
        figures.append(svg_figure("loss", "Loss", caption, line_plot(losses, axis)))
    accuracies = {"training": curves["train/accuracy"], "validation": curves["eval/accuracy"]}
    if any(accuracies.values()):
        caption = "Training accuracy is measured on the images as trained on, while the weights move."
        if best is not None:
            caption += " The dotted line marks the epoch whose weights were kept."
        draw = line_plot(accuracies, axis, best=best, percent=True)
        figures.append(svg_figure("accuracy", "Accuracy", caption, draw))
    notes = []
    operations = sum(step.router is not None for step in config.depth_plan()) if config else 0
    balance = {at: value / operations for at, value in curves["train/balance_loss"].items()} if operations else {}
    if balance:
        caption = (
            f"In training, per routing operation (the mean of {operations}). 1, the line, is perfectly balanced; "
            "the more the experts' shares differ, the higher."
        )
        draw = line_plot({"balance loss": balance}, axis, level=1)
        figures.append(svg_figure("balance", "Balance loss", caption, draw))
    elif config is None:
        notes.append("The balance loss is left out: without config.json it cannot be told how often was routed.")
    elif not operations:
        notes.append("A dense model routes nothing, so there is no balance loss.")
    if any(finite[tag] != points for tag, points in scalars.items() if tag in CURVES):
        notes.append("Values that are not finite numbers are left out: training diverged.")
    return f"<div class=figures>{''.join(figures)}</div>" + "".join(f"<p>{note}</p>" for note in notes)
