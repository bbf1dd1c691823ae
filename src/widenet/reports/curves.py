"""The learning curves, from the TensorBoard logs of a run."""

import math
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from widenet.config import WideNetConfig
from widenet.reports.figures import Level, Points, line_plot, svg_figure
from widenet.reports.words import headline_of, metric, words_of

# What of a validation the training accuracy compares with.
LIKE_TRAINING_ACCURACY = ("accuracy", "mlm_accuracy", "agreement")


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


def learning_curves(logs: Path, config: WideNetConfig | None, metrics: dict[str, Any]) -> str:
    """Return the section: loss, the headline metrics, balance loss."""
    headline = headline_of(metrics)
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
    best = _best(metrics.get("best_epoch"), axis, epochs)

    figures = []
    losses = {"training": curves["train/loss"], "validation": curves["eval/loss"]}
    if any(losses.values()):
        figures.append(svg_figure("loss", "Loss", words_of(metrics).loss, line_plot(losses, axis)))
    for name in headline:
        found = {"validation": curves[f"eval/{name}"]}
        if name in LIKE_TRAINING_ACCURACY:
            found = {"training": curves["train/accuracy"], **found}
        if any(found.values()):
            level = _level(name, metrics, scalars)
            caption = _caption(name, metrics, level, axis if best is not None else None)
            draw = line_plot(found, axis, best=best, kind=metric(name).kind, level=level)
            figures.append(svg_figure(name, metric(name).title, caption, draw))
    notes = []
    operations = sum(step.router is not None for step in config.depth_plan()) if config else 0
    balance = {at: value / operations for at, value in curves["train/balance_loss"].items()} if operations else {}
    if balance:
        caption = (
            f"In training, per routing operation (the mean of {operations}). 1, the line, is perfectly balanced; "
            "the more the experts' shares differ, the higher."
        )
        draw = line_plot({"balance loss": balance}, axis, level=Level(1))
        figures.append(svg_figure("balance", "Balance loss", caption, draw))
    elif config is None:
        notes.append("The balance loss is left out: without config.json it cannot be told how often was routed.")
    elif not operations:
        notes.append("A dense model routes nothing, so there is no balance loss.")
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


def _level(name: str, metrics: dict[str, Any], scalars: dict[str, Points]) -> Level | None:
    """Return the line that a metric must leave behind for its model to have learnt anything."""
    if name == "mlm_loss":
        logged = list(scalars.get("eval/unigram_loss", {}).values())
        unigram = logged[-1] if logged else metrics.get("unigram_loss")
        return None if unigram is None else Level(float(unigram), "unigram")
    return Level(0.5, "chance") if name == "sentence_order_accuracy" else None


def _caption(name: str, metrics: dict[str, Any], level: Level | None, best_axis: str | None) -> str:
    captions = []
    if name == "accuracy":
        examples = words_of(metrics).examples
        captions.append(f"Training accuracy is measured on the {examples} as trained on, while the weights move.")
    elif name == "mlm_accuracy":
        captions.append("Share of the masked words that are guessed right; in training with dropout, if there is any.")
    elif name == "mlm_loss":
        captions.append("Of the masked words, in nats a token.")
        if level is not None:
            captions.append(
                f"The line is the unigram loss, {level.value:.3f}: that of guessing the same words by nothing but "
                "their frequency in the training part. Above it, a model has not learnt to read what is around them."
            )
    elif name == "sentence_order_accuracy":
        captions.append("Whether the two halves of a text are in order. Half of them are: the line is chance.")
    elif name == "hidden_error":
        captions.append(
            "Share of the variance of the teacher's hidden states that is missed, the mean over the blocks: at 0% the "
            "two models are the same, at 100% a constant would be as good."
        )
    elif name == "agreement":
        captions.append("Share of the predictions that are the teacher's.")
    elif metric(name).kind == "percent":
        captions.append("Of the validation questions, as SQuAD's script scores them.")
    else:
        captions.append("On the validation part.")
    if best_axis is not None:
        captions.append(f"The dotted line marks the {best_axis} whose weights were kept.")
    return " ".join(captions)
