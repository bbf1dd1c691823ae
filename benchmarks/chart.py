"""Accuracy against parameters: the paper's points hollow, ours filled.

    python -m benchmarks.chart                      writes docs/images/accuracy.svg
    python -m benchmarks.chart --output chart.png   any format of matplotlib

The paper's points are its Table 1 (`widenet.models.paper`), with our exact parameter counts. Ours are
`benchmarks/results.yaml`, where each stands beside the command that makes it. One panel holds one data set, because
accuracies of different data sets do not compare.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from widenet.models.counts import count
from widenet.models.paper import PAPER_ROWS
from widenet.models.presets import create_config

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("results.yaml")
MARGIN = 1.6  # room beside the outermost models, as a factor
TICKS = (0.5, 1, 2, 5, 10, 15, 20, 30, 50, 100, 200, 500)
PAPER = "ImageNet-1K, the paper's Table 1"

# family: colour, marker, name in the legend
FAMILIES = {
    "widenet": ("#c2570c", "o", "WideNet"),
    "widened": ("#c2570c", "D", "WideNet, widened from a dense model"),
    "dense": ("#2f6fb7", "s", "dense"),
    "moe": ("#6b7280", "^", "mixture of experts, unshared"),
}


class Point(NamedTuple):
    """One model of one panel."""

    label: str
    family: str
    parameters: int
    accuracy: float  # in percent
    seeds: tuple[float, ...] = ()  # accuracies of the single seeds, where accuracy is their median


def paper_points() -> list[Point]:
    """Return the models of Table 1, with exact parameters and the paper's ImageNet-1K top-1."""
    points = []
    for row in PAPER_ROWS:
        if row.table == "1" and row.top1 is not None:
            config = create_config(row.preset, **row.overrides)
            family = "widenet" if config.share_ffn else "moe" if config.moe_blocks else "dense"
            points.append(Point(row.name, family, count(config).parameters, row.top1))
    return points


def our_points() -> dict[str, list[Point]]:
    """Return our own results by panel, in the order of the file."""
    panels: dict[str, list[Point]] = {}
    for entry in yaml.safe_load(RESULTS.read_text(encoding="utf-8")):
        seeds = tuple(entry.get("seeds", ()))
        point = Point(entry["label"], entry["family"], entry["parameters"], entry["value"], seeds)
        panels.setdefault(entry["panel"], []).append(point)
    return panels


def draw_panel(axes: Axes, title: str, points: Sequence[Point], hollow: bool) -> None:
    """Draw one data set: parameters on a logarithmic axis, accuracy in percent, a thin line from seed to seed."""
    sizes = [point.parameters / 1e6 for point in points]
    scores = [score for point in points for score in (point.accuracy, *point.seeds)]
    least, most = min(sizes) / MARGIN, max(sizes) * MARGIN
    # At least three points high, so that a difference within chance does not look like one.
    middle, half = (max(scores) + min(scores)) / 2, max(1.5, 0.65 * (max(scores) - min(scores)))
    axes.set_xscale("log")
    axes.set_xlim(least, most)
    axes.set_ylim(middle - half, middle + half)
    for point, size in zip(points, sizes, strict=True):
        colour, marker, _ = FAMILIES[point.family]
        if point.seeds:
            axes.vlines(size, min(point.seeds), max(point.seeds), color=colour, linewidth=1)
        face = "white" if hollow else colour
        axes.plot(size, point.accuracy, marker, color=colour, markerfacecolor=face, markersize=7)
        # Below its mark where another model stands close above it.
        above = (other for other in points if other is not point and other.accuracy >= point.accuracy)
        crowded = any(
            abs(math.log(other.parameters / point.parameters)) < 0.3 * math.log(most / least)
            and other.accuracy - point.accuracy < 0.2 * half
            for other in above
        )
        end = min(point.seeds, default=point.accuracy) if crowded else max(point.seeds, default=point.accuracy)
        axes.annotate(
            point.label,
            (size, end),
            xytext=(0, -7 if crowded else 7),
            textcoords="offset points",
            ha="center",
            va="top" if crowded else "bottom",
            fontsize=8,
        )
    axes.set_title(title, fontsize=9.5)
    axes.set_xlabel("parameters, millions", fontsize=9)
    axes.set_xticks([tick for tick in TICKS if least <= tick <= most])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.2)


def draw(output: Path) -> None:
    """Write the chart."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.hashsalt": "accuracy", "svg.fonttype": "none", "font.family": "sans-serif"})
        mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
        panels = [(PAPER, paper_points(), True), *((name, points, False) for name, points in our_points().items())]
        figure = Figure(figsize=(10.5, 3.9), layout="constrained", facecolor="white")
        widths = [1.35] + [1.0] * (len(panels) - 1)
        for axes, (name, points, hollow) in zip(
            figure.subplots(1, len(panels), width_ratios=widths), panels, strict=True
        ):
            draw_panel(axes, name if hollow else f"{name}, measured here", points, hollow)
            axes.set_ylabel("accuracy, %" if not hollow else "top-1 accuracy, %", fontsize=9)
        handles = [
            Line2D([], [], linestyle="", marker=marker, color=colour, label=name)
            for colour, marker, name in FAMILIES.values()
        ]
        handles.append(Line2D([], [], color="#444444", linewidth=1, label="line: from seed to seed"))
        hollow_mark = Line2D([], [], linestyle="", marker="o", color="#444444", markerfacecolor="white")
        hollow_mark.set_label("hollow: the paper's number")
        handles.append(hollow_mark)
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        metadata = {"Date": None} if output.suffix == ".svg" else None
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, metadata=metadata)
    if output.suffix == ".svg":  # matplotlib leaves blanks at the ends of lines
        lines = output.read_text(encoding="utf-8").splitlines()
        output.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def main() -> None:
    """Draw the chart and print its place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/accuracy.svg")
    output = parser.parse_args().output
    draw(output)
    print(output)


if __name__ == "__main__":
    main()
