"""The learning curves, from the TensorBoard logs of a run."""

import math
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from widenet.config import WideNetConfig
from widenet.reports.figures import Level, Points, line_plot, svg_figure
from widenet.tasks import Metric, Task, metric_of
from widenet.tasks.metrics import routing_operations


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


def learning_curves(
    logs: Path, config: WideNetConfig | None, task: type[Task], headline: list[str], best_epoch: float | None
) -> str:
    """Return the section: loss, the headline metrics, balance loss."""
    tags = ["train/loss", "eval/loss", "train/accuracy", "train/balance_loss", *(f"eval/{name}" for name in headline)]
    scalars = read_scalars(logs)
    finite = {
        tag: {step: value for step, value in points.items() if math.isfinite(value)} for tag, points in scalars.items()
    }
    steps = {step for tag in tags for step in finite.get(tag, {})}
    if not steps:
        return "<p>Left out: the run folder holds no TensorBoard logs of its training.</p>"
    epochs = scalars.get("train/epoch", {})
    axis = _axis(steps, epochs, [finite.get(f"eval/{name}", {}) for name in ("loss", *headline)])
    place = epochs if axis == "epoch" else {step: step for step in steps}
    curves = {tag: {place[step]: value for step, value in finite.get(tag, {}).items()} for tag in tags}
    best = _best(best_epoch, axis, epochs)

    figures = []
    losses = {"training": curves["train/loss"], "validation": curves["eval/loss"]}
    if any(losses.values()):
        figures.append(svg_figure("loss", "Loss", task.words.loss, line_plot(losses, axis)))
    for name in headline:
        metric, found = metric_of(task, name), {"validation": curves[f"eval/{name}"]}
        if metric.like_training:
            found = {"training": curves["train/accuracy"], **found}
        if any(found.values()):
            caption = metric.note or "On the validation part."
            if best is not None:
                caption += f" The dotted line marks the {axis} whose weights were kept."
            draw = line_plot(found, axis, best=best, kind=metric.kind, level=_level(metric, scalars))
            figures.append(svg_figure(name, metric.title, caption, draw))
    notes = []
    operations = routing_operations(config) if config else None
    if operations != 0 and (balance := curves["train/balance_loss"]):
        caption = (
            "In training, the mean per routing operation. 1, the line, is perfectly balanced; "
            "the more the experts' shares differ, the higher."
        )
        draw = line_plot({"balance loss": balance}, axis, level=Level(1))
        figures.append(svg_figure("balance", "Balance loss", caption, draw))
    elif operations == 0:
        notes.append("A model without experts routes nothing, so there is no balance loss.")
    if any(finite[tag] != points for tag, points in scalars.items() if tag in tags):
        notes.append("Values that are not finite numbers are left out: training diverged.")
    return f"<div class=figures>{''.join(figures)}</div>" + "".join(f"<p>{note}</p>" for note in notes)


def _axis(steps: set[float], epochs: Points, validations: list[Points]) -> str:
    """Tell whether the curves go over epochs, or over steps: where it was validated within epochs."""
    if not steps <= epochs.keys():
        return "step"
    found = sorted({epochs[step] for points in validations for step in points})
    return "epoch" if all(epoch == round(epoch) for epoch in found[:-1]) else "step"


def _best(best_epoch: float | None, axis: str, epochs: Points) -> float | None:
    """Return where on the axis the weights that were kept are from."""
    if axis == "epoch" or best_epoch is None:
        return best_epoch
    return next((step for step, epoch in epochs.items() if math.isclose(epoch, best_epoch, rel_tol=1e-5)), None)


def _level(metric: Metric, scalars: dict[str, Points]) -> Level | None:
    """Return the line that a metric must leave behind for its model to have learnt anything."""
    if metric.level is None:
        return None
    value, name = metric.level
    if isinstance(value, str):  # another metric, by its last value
        logged = list(scalars.get(f"eval/{value}", {}).values())
        return Level(logged[-1], name) if logged else None
    return Level(value, name)
