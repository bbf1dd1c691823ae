"""Figures as SVG, written into the page. Their ink is the page's text colour, so they follow its light and dark."""

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

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
MOST_NUMBERED_EXPERTS = 16  # beyond, a heatmap cell is too narrow for its number

Points = dict[float, float]
Draw = Callable[[Figure, Axes], None]


class Level(NamedTuple):
    """A value to compare a curve with; it is in the legend if it has a name."""

    value: float
    name: str | None = None


def svg_figure(name: str, title: str, caption: str, draw: Draw, height: float = 2.8) -> str:
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


def line_plot(
    curves: dict[str, Points],
    axis: str,
    *,
    kind: str = "number",
    best: float | None = None,
    level: Level | None = None,
) -> Draw:
    """Return what draws one or two curves, with a mark at the best epoch or step, or a line at a level.

    A ``kind`` of "share" is shown in percent, as is one of "percent", which is in percent already.
    """

    def draw(figure: Figure, axes: Axes) -> None:
        for label, points in curves.items():
            marker, colour = "o" if len(points) <= FEW_POINTS else "", ORANGE if label == "validation" else BLUE
            if points:
                axes.plot(*zip(*points.items(), strict=True), label=label, color=colour, marker=marker, markersize=3)
        if best is not None:
            axes.axvline(best, color=INK, linewidth=0.8, linestyle=":")
        if level is not None:
            axes.axhline(level.value, color=INK, linewidth=0.8, label=level.name)
        if kind in ("share", "percent"):
            factor = 100 if kind == "share" else 1
            axes.yaxis.set_major_formatter(lambda value, _: f"{factor * value:.4g}%")
        last = max(place for points in curves.values() for place in points)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=last >= 1, steps=[1, 2, 5, 10]))
        axes.set_xlim(0, 1.03 * last)
        axes.set_xlabel(axis)
        axes.grid()
        if len(curves) > 1 or (level is not None and level.name):
            axes.legend()

    return draw


def heatmap(load: dict[int, list[float]]) -> Draw:
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
