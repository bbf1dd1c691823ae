"""A run as one HTML page: nothing to load from elsewhere, readable on a phone, on paper and in the dark.

The figures are matplotlib's SVG, written into the page. Their ink is the page's text colour, so they
follow its light and dark.
"""

import io
import json
import math
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from huggingface_hub.errors import StrictDataclassError
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from widenet.analysis.compare import read_metrics
from widenet.config import WideNetVisionConfig
from widenet.errors import WideNetError
from widenet.recipes import parse_yaml

# A colour nothing else uses; the page's text colour takes its place.
INK = "#010203"
BLUE, ORANGE = "#3a82d6", "#d9730d"  # legible on white and on near-black
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "figure.facecolor": "none",
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
FEW_POINTS = 30  # up to here a curve gets markers: a single epoch is no line
MANY_CLASSES = 100  # beyond, only the worst are listed
WORST_CLASSES = 20
MOST_NUMBERED_EXPERTS = 16  # beyond, a heatmap cell is too narrow for its number

Points = dict[float, float]


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write a run's page and return where it is.

    The page depends only on what the run folder holds. Whatever the folder lacks (logs, recipe, a
    mixture's expert load) is left out, and the page says so.

    Args:
        run: a run folder with ``metrics.json``.
        output: the page; ``report.html`` in the run folder by default.

    Raises:
        WideNetError: the run is missing or damaged, or the page cannot be written.
    """
    page = _page(run, read_metrics(run))
    output = output or run / "report.html"
    partial = output.with_name(f"{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WideNetError(f"the report cannot be written to {output}: {error}") from error
    return output


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


def _page(run: Path, metrics: dict[str, Any]) -> str:
    config = _read_config(run)
    recipe = _read_recipe(run)
    name, model = str(metrics.get("recipe") or run.resolve().name), str(metrics.get("model") or "unknown model")
    sections = [
        _header(name, model, recipe, config),
        _facts(metrics),
        _section("Learning curves", _curves(run / "logs", config, metrics)),
        _section("Expert load", _expert_load(metrics)),
        _section("Accuracy by class", _classes(metrics)),
        _section("Data", _split(metrics.get("split"))),
        _section("Recipe", _recipe(recipe)),
        _section("Made with", _origin(metrics)),
    ]
    return PAGE.format(title=escape(f"{name} · {model}"), style=CSS, body="\n".join(sections))


def _read_config(run: Path) -> WideNetVisionConfig | None:
    file = run / "config.json"
    if not file.is_file():
        return None
    try:
        return WideNetVisionConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise WideNetError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _read_recipe(run: Path) -> str | None:
    file = run / "recipe.yaml"
    if not file.is_file():
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WideNetError(f"{file} cannot be read: {error}") from error


# ---- sections ----


def _header(name: str, model: str, recipe: str | None, config: WideNetVisionConfig | None) -> str:
    description = parse_yaml(recipe, "recipe.yaml").get("description") if recipe else None
    lines = [f"<h1>{escape(name)} <span>{escape(model)}</span></h1>"]
    if description:
        lines.append(f"<p>{escape(str(description))}</p>")
    if config is not None:
        lines.append(f"<p>{_shape(config)}</p>")
    return "<header>" + "".join(lines) + "</header>"


def _shape(config: WideNetVisionConfig) -> str:
    """The model in a sentence."""
    shared = [name for name in ("attention", "ffn", "norm") if getattr(config, f"share_{name}")]
    parts = [f"{config.num_hidden_layers} blocks of width {config.hidden_size}"]
    mixtures = len(config.moe_blocks)
    if mixtures:
        where = "every block" if mixtures == config.num_hidden_layers else f"{mixtures} of them"
        experts = f"{config.num_experts} experts, {config.num_experts_per_tok} for each token"
        parts.append(f"a mixture of {experts}, in {where}")
    else:
        parts.append("no mixture of experts")
    names = {"attention": "attention", "ffn": "feed-forward", "norm": "norms"}
    parts.append("shared by all blocks: " + (", ".join(names[name] for name in shared) or "nothing"))
    return "; ".join(parts).capitalize() + "."


def _facts(metrics: dict[str, Any]) -> str:
    get = metrics.get
    parameters, active = get("parameters"), get("active_parameters")
    flops, active_flops, seconds = get("flops"), get("active_flops"), get("seconds")
    cost = _text("{:,}", active_flops)
    if flops != active_flops and cost and flops:
        cost += f"; {_short(flops)} if every expert ran"
    share = f"{active / parameters:.0%} of all: what one token uses" if active and parameters else None
    # label, value, note; a card without value is left out
    facts = [
        ("Test accuracy", _text("{:.2%}", get("accuracy")), _text("on {:,} images", get("test_images"))),
        (
            "Validation accuracy",
            _text("{:.2%}", get("validation_accuracy")),
            _text("best, after epoch {:g}", get("best_epoch")),
        ),
        ("Parameters", _text("{:,}", parameters), None),
        ("Active parameters", _text("{:,}", active), share),
        ("FLOPs per image, active", active_flops and _short(active_flops), cost),
        ("Training time", seconds and _duration(seconds), _text("{:g} epochs", get("epochs"))),
        ("Seed", _text("{}", get("seed")), None),
    ]
    cards = [
        f"<div><dt>{label}</dt><dd>{escape(value)}</dd>{f'<dd class=note>{escape(note)}</dd>' if note else ''}</div>"
        for label, value, note in facts
        if value
    ]
    return f"<dl class=facts>{''.join(cards)}</dl>"


def _curves(logs: Path, config: WideNetVisionConfig | None, metrics: dict[str, Any]) -> str:
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
        figures.append(_figure("loss", "Loss", caption, _line_plot(losses, axis)))
    accuracies = {"training": curves["train/accuracy"], "validation": curves["eval/accuracy"]}
    if any(accuracies.values()):
        caption = "Training accuracy is measured on the images as trained on, while the weights move."
        if best is not None:
            caption += " The dotted line marks the epoch whose weights were kept."
        draw = _line_plot(accuracies, axis, best=best, percent=True)
        figures.append(_figure("accuracy", "Accuracy", caption, draw))
    notes = []
    operations = sum(step.router is not None for step in config.depth_plan()) if config else 0
    balance = {at: value / operations for at, value in curves["train/balance_loss"].items()} if operations else {}
    if balance:
        caption = (
            f"In training, per routing operation (the mean of {operations}). 1, the line, is perfectly balanced; "
            "the more the experts' shares differ, the higher."
        )
        draw = _line_plot({"balance loss": balance}, axis, level=1)
        figures.append(_figure("balance", "Balance loss", caption, draw))
    elif config is None:
        notes.append("The balance loss is left out: without config.json it cannot be told how often was routed.")
    elif not operations:
        notes.append("A dense model routes nothing, so there is no balance loss.")
    if any(finite[tag] != points for tag, points in scalars.items() if tag in CURVES):
        notes.append("Values that are not finite numbers are left out: training diverged.")
    return f"<div class=figures>{''.join(figures)}</div>" + "".join(f"<p>{note}</p>" for note in notes)


def _expert_load(metrics: dict[str, Any]) -> str:
    load = {block: shares for block, shares in enumerate(metrics.get("expert_load") or []) if shares}
    if not load:
        why = "the model is dense" if metrics.get("expert_load") else "metrics.json records none"
        return f"<p>Left out: {why}.</p>"
    E = len(next(iter(load.values())))
    most, least = (
        choose((share, block, expert) for block, shares in load.items() for expert, share in enumerate(shares))
        for choose in (max, min)
    )
    text = (
        f"The share of assignments each expert got on the test images; a perfectly balanced router gives each "
        f"1/{E} = {100 / E:.3g}%. "
        f"Most: expert {most[2]} in block {most[1]} with {most[0]:.1%}. "
        f"Least: expert {least[2]} in block {least[1]} with {least[0]:.1%}."
    )
    balance = metrics.get("balance_loss")
    if balance is not None:
        text += f" Balance loss on the test images: {balance:.4f}, where 1 is perfectly balanced."
    if len(load) < len(metrics["expert_load"]):
        text += " Blocks that are not shown are dense."
    numbers = "Each cell in percent. " if E <= MOST_NUMBERED_EXPERTS else ""
    caption = f"{numbers}Blocks and experts are numbered from 0. White is balanced, red is more, blue is less."
    height = 1.0 + 0.28 * len(load)
    return f"<p>{text}</p>" + _figure("load", "Expert load per block", caption, _heatmap(load), height)


def _classes(metrics: dict[str, Any]) -> str:
    found = sorted((metrics.get("class_accuracy") or {}).items(), key=lambda item: (item[1], item[0]))
    if not found:
        return "<p>Left out: metrics.json records none.</p>"
    text = f"On the test images, worst first; the mean over {len(found)} classes is "
    text += f"{sum(value for _, value in found) / len(found):.2%}."
    if len(found) > MANY_CLASSES:
        text += f" Of more than {MANY_CLASSES} classes only the {WORST_CLASSES} worst are listed."
        found = found[:WORST_CLASSES]
    rows = [
        f"<tr><th scope=row>{escape(name)}</th><td class=number>{value:.1%}</td>"
        f'<td class=bar><div style="width:{value:.1%}"></div></td></tr>'
        for name, value in found
    ]
    return f"<p>{text}</p><table class=classes>{''.join(rows)}</table>"


def _split(split: dict[str, Any] | None) -> str:
    if not split:
        return "<p>Left out: metrics.json records no split.</p>"
    origin, own = split.get("origin", {}), "the source's own"
    rows = {"source": split.get("source")}
    for part, size in split.get("sizes", {}).items():
        rows[part] = f"{size:,} images" + (f" ({re.sub('^own', own, origin[part])})" if part in origin else "")
    rows |= {"split seed": split.get("seed"), "skipped files": split.get("skipped_files")}
    rows["digest"] = split.get("digest")
    return _table(rows) + "<p class=note>Two runs with the same digest have the same images in every part.</p>"


def _recipe(recipe: str | None) -> str:
    if recipe is None:
        return "<p>Left out: the run folder holds no recipe.yaml.</p>"
    return (
        f"<details><summary>recipe.yaml, every value that was in force</summary><pre>{escape(recipe)}</pre></details>"
    )


def _origin(metrics: dict[str, Any]) -> str:
    rows = {"commit": metrics.get("commit") or "not recorded", **(metrics.get("versions") or {})}
    return _table(rows)


# ---- figures ----

CURVES = ("train/loss", "eval/loss", "train/accuracy", "eval/accuracy", "train/balance_loss")


def _line_plot(
    curves: dict[str, Points],
    axis: str,
    *,
    percent: bool = False,
    best: float | None = None,
    level: float | None = None,
) -> Callable[[Figure, Axes], None]:
    """Return what draws one or two curves, with a mark at the best epoch or a line at a level."""

    def draw(figure: Figure, axes: Axes) -> None:
        for (label, points), colour in zip(curves.items(), (BLUE, ORANGE), strict=False):
            marker = "o" if len(points) <= FEW_POINTS else ""
            if points:
                axes.plot(*zip(*points.items(), strict=True), label=label, color=colour, marker=marker, markersize=3)
        if best is not None:
            axes.axvline(best, color=INK, linewidth=0.8, linestyle=":")
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.8)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlim(0, 1.03 * max(place for points in curves.values() for place in points))
        axes.set_xlabel(axis)
        axes.grid()
        if len(curves) > 1:
            axes.legend()

    return draw


def _heatmap(load: dict[int, list[float]]) -> Callable[[Figure, Axes], None]:
    """Return what draws one row of cells per block, white where an expert has its fair share."""
    shares = np.array(list(load.values()))  # [blocks, E]
    E = shares.shape[1]
    small = 9 if E <= 8 else 7
    fair = 1 / E
    top = max(2 * fair, shares.max())
    # Few levels: matplotlib would embed a finer colour bar as a bitmap.
    scale = ScalarMappable(TwoSlopeNorm(fair, 0, top), mpl.colormaps["RdBu_r"].resampled(21))

    def draw(figure: Figure, axes: Axes) -> None:
        colours = scale.to_rgba(shares)  # [blocks, E, 4]
        for (row, expert), share in np.ndenumerate(shares):
            colour = colours[row, expert, :3]
            axes.add_patch(Rectangle((expert - 0.48, row - 0.46), 0.96, 0.92, facecolor=colour))
            if E <= MOST_NUMBERED_EXPERTS:
                ink = "#111111" if colour @ (0.3, 0.59, 0.11) > 0.5 else "#ffffff"
                number = f"{100 * share:.1f}" if E <= 8 else f"{100 * share:.0f}"
                axes.text(expert, row, number, ha="center", va="center", color=ink, size=small)
        axes.set(xlim=(-0.5, E - 0.5), ylim=(len(load) - 0.5, -0.5), xlabel="expert", ylabel="block")
        axes.set_yticks(range(len(load)), [str(block) for block in load])
        axes.set_xticks(range(0, E, 1 + E // 32))
        axes.tick_params(length=0, labelsize=small)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(scale, ax=axes, aspect=12, fraction=0.06)
        bar.outline.set_visible(False)
        if bar.solids is not None:
            bar.solids.set_edgecolor("face")  # no seams between its levels
        bar.ax.axhline(fair, color="#111111", linewidth=1)
        bar.set_ticks([0, fair, top], labels=["0", f"1/{E}", f"{top:.0%}"])

    return draw


def _figure(name: str, title: str, caption: str, draw: Callable[[Figure, Axes], None], height: float = 2.8) -> str:
    """Return a figure as HTML; ``name`` keeps its ids apart from those of other figures."""
    # Without pyplot, and whatever the user's matplotlibrc says.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(4.2, height), layout="constrained")
        draw(figure, figure.add_subplot())
        buffer = io.StringIO()
        # No date, which would differ each time, and no metadata, which would name addresses.
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 role="img" aria-label="{escape(title)}">', svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # the same in every figure, and nothing refers to them
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    return f"<figure><h3>{escape(title)}</h3>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


# ---- words and numbers ----


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(rows: dict[str, Any]) -> str:
    cells = [
        f"<tr><th scope=row>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>"
        for key, value in rows.items()
        if value is not None
    ]
    return f"<table>{''.join(cells)}</table>"


def _text(template: str, value: Any) -> str | None:
    return None if value is None else template.format(value)


def _short(number: float) -> str:
    """14,636,928 → 14.6 million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

CSS = """
:root { --page: #f4f5f7; --card: #fff; --text: #1b1e24; --quiet: #5b6270; --line: #dfe2e8; --bar: #3a82d6 }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #111317; --card: #1b1e24; --text: #e8eaee; --quiet: #a0a7b4; --line: #333842; --bar: #3a82d6 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 3rem }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere }
h1 span { color: var(--quiet); font-weight: 400 }
h2 { margin: 2.25rem 0 .5rem; font-size: 1.2rem }
h3 { margin: 0 0 .5rem; font-size: 1rem }
p { margin: .4rem 0; max-width: 46rem }
header p, figcaption, .note { color: var(--quiet) }
figcaption, .note { font-size: .85rem; line-height: 1.4 }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .75rem; margin: 1.25rem 0 }
@media (min-width: 55rem) { .facts { grid-template-columns: repeat(4, 1fr) } }
.facts div, figure, table, details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem }
.facts div { padding: .6rem .8rem }
dt { color: var(--quiet); font-size: .85rem }
dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums }
dd.note { font-size: .8rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: .75rem }
figure { margin: 0; padding: .8rem; max-width: 36rem }
svg { display: block; width: 100%; height: auto; margin-bottom: .4rem }
svg * { stroke-linejoin: round }
svg text { font-family: inherit !important }
table { border-collapse: separate; border-spacing: 0; padding: .3rem .8rem; max-width: 46rem; margin: .5rem 0 }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere }
th { color: var(--quiet); font-weight: 400; white-space: nowrap }
.classes { width: 100% }
.classes th { white-space: normal }
.number { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal }
.bar { width: 35%; padding-right: 0; vertical-align: middle }
.bar div { height: .7rem; border-radius: .2rem; background: var(--bar); print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
details { padding: .6rem .8rem; max-width: 46rem }
summary { cursor: pointer }
pre { margin: .6rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem }
@media print {
  :root { --page: #fff }
  body { font-size: 11pt }
  main { padding: 0 }
  h2 { break-after: avoid }
  figure, tr, .facts div { break-inside: avoid }
  details::details-content { content-visibility: visible; display: block; block-size: auto }
}
"""
