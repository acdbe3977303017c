"""Figures: one small panel each, which a page puts side by side and a phone one below another."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.0, 3.3)  # inches
_TITLE = 46  # characters of a title that fit above a panel
_RC: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a page does not depend on the machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "errorbar.capsize": 2.5,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "svg.hashsalt": "robustprune",  # element ids that do not change from one time to the next
    "text.parse_math": False,  # a run's labels are text, not formulas
}


@dataclass(frozen=True)
class Figure:
    """A drawn panel.

    Attributes:
        name: names its file: letters, digits and hyphens.
        title: what it shows.
        alt: the same in words and numbers, for who cannot see it.
        svg: for the page.
        png: for everything else.
        wide: takes the page's whole width.
    """

    name: str
    title: str
    alt: str
    svg: bytes
    png: bytes
    wide: bool = False


def draw(
    name: str,
    title: str,
    alt: str,
    paint: Callable[[Axes], None],
    *,
    size: tuple[float, float] = SIZE,
    legend: int = 3,
) -> Figure:
    """Draw a panel with its legend below the axes, where it covers nothing.

    Args:
        name: see `Figure`; made of any text.
        title: stands above the axes.
        alt: see `Figure`.
        paint: draws into the axes.
        size: in inches.
        legend: columns of the legend.
    """

    def fill(canvas: Canvas) -> None:
        axes = canvas.subplots()
        paint(axes)
        axes.set_title(textwrap.fill(title, _TITLE), loc="left")
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            found = zip(handles, labels, strict=True)  # matplotlib names error bars last
            pairs = sorted(found, key=lambda pair: not isinstance(pair[0], ErrorbarContainer))
            canvas.legend(*zip(*pairs, strict=True), loc="outside lower center", ncols=legend)

    return compose(name, title, alt, fill, size=size)


def compose(
    name: str,
    title: str,
    alt: str,
    fill: Callable[[Canvas], None],
    *,
    size: tuple[float, float],
    wide: bool = False,
) -> Figure:
    """Draw a figure that lays out its axes itself; see `draw`. Equal input gives equal bytes."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # shown as a box, as in any program
        canvas = Canvas(figsize=size, layout="constrained")
        fill(canvas)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # laid out once, not at each saving
        svg, png = io.BytesIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        canvas.savefig(png, format="png", metadata={"Software": None})
    return Figure(slug(name), title, alt, svg.getvalue(), png.getvalue(), wide)


def slug(text: str) -> str:
    """``text`` as a file's name: ``accuracy-pgd-0-1`` of ``accuracy pgd 0.1``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"


def density_axis(axes: Axes, densities: Iterable[float]) -> None:
    """A log axis with the densities themselves as ticks, as many as fit."""
    wanted = sorted(set(densities))
    axes.set_xscale("log")
    axes.set_xlim(wanted[0] / 1.35, wanted[-1] * 1.35)
    axes.xaxis.set_major_locator(FixedLocator(spread(wanted)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("density (fraction of weights kept, log scale)")


def spread(values: Sequence[float], *, most: int = 8) -> list[float]:
    """Those of some ascending positive values whose labels do not overlap on a log axis.

    The ends stay; a value stays if it is far enough from both its kept neighbours.
    """
    if len(values) < 3:
        return list(values)
    gap = (values[-1] / values[0]) ** (1 / most)
    kept = [values[0]]
    for value in values[1:-1]:
        if value / kept[-1] >= gap and values[-1] / value >= gap:
            kept.append(value)
    return [*kept, values[-1]]


def count_axis(axes: Axes, *, decimals: bool = False) -> None:
    """A log y axis that is labelled in plain numbers, at 1, 2 and 5 where decades are few."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    form = "{:g}" if decimals else "{:,.0f}"
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def percent_axis(axes: Axes, label: str) -> None:
    """Accuracies in percent, drawn as such, never beyond 0 and 100."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2.0), min(high, 102.0))
    axes.set_ylabel(label)


def dodge(index: int, count: int) -> float:
    """The factor that sets ``count`` series apart on a log axis, so that no bar hides another."""
    return float(1.035 ** (index - (count - 1) / 2))
