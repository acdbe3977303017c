"""Figures: one small panel each, which a page puts side by side and a phone one below another."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from robustprune.report.groups import Estimate, Style
from robustprune.report.tables import Table

Points = Sequence[tuple[float, Estimate]]
"""x, and the estimate there."""

LINES = ("-", "--", ":", "-.")
"""Line styles of densities, the largest first."""

_STYLE = Path(__file__).with_name("page.mplstyle")


@dataclass(frozen=True)
class Figure:
    """A drawn panel."""

    name: str
    """Names its file: letters, digits and hyphens."""
    title: str
    alt: str
    """The same in words and numbers, for who cannot see it."""
    svg: bytes
    """For the page."""
    png: bytes
    """For everything else."""


@dataclass
class Section:
    """A part of the page."""

    name: str
    """Its anchor."""
    title: str
    text: list[str] = field(default_factory=list)
    """A paragraph each."""
    missing: list[str] = field(default_factory=list)
    """Sentences about figures that could not be drawn, with the reason."""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


def draw(
    name: str, title: str, alt: str, paint: Callable[[Axes], None], *, legend: int = 3
) -> Figure:
    """Draw a panel with a legend of some columns below the axes. Equal input gives equal bytes."""
    with matplotlib.style.context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # shown as a box, as in any program
        canvas = Canvas(figsize=(4.0, 3.3), layout="constrained")
        axes = canvas.subplots()
        paint(axes)
        axes.set_title(textwrap.fill(title, 46), loc="left")
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            found = zip(handles, labels, strict=True)  # matplotlib names error bars last
            pairs = sorted(found, key=lambda pair: not isinstance(pair[0], ErrorbarContainer))
            canvas.legend(*zip(*pairs, strict=True), loc="outside lower center", ncols=legend)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # laid out once, not at each saving
        svg, png = io.BytesIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        canvas.savefig(png, format="png", metadata={"Software": None})
    return Figure(slug(name), title, alt, svg.getvalue(), png.getvalue())


def slug(text: str) -> str:
    """Return ``text`` as a file's name: ``accuracy-pgd-0-1`` of ``accuracy pgd 0.1``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"


def error_bars(axes: Axes, points: Points, label: str, style: Style, *, factor: float = 1) -> None:
    """Draw a line in percent with an interval at each point, and a dot for each of several runs.

    All x are multiplied by ``factor``, which sets lines on a log axis apart.
    """
    x = [factor * place for place, _ in points]
    below = [100 * max(found.value - found.low, 0) for _, found in points]
    above = [100 * max(found.high - found.value, 0) for _, found in points]
    look: Any = {"label": label, "color": style.colour, "marker": style.marker}
    axes.errorbar(x, [100 * found.value for _, found in points], yerr=[below, above], **look)
    for place, (_, found) in zip(x, points, strict=True):
        if len(found.each) > 1:
            dots = [100 * value for value in found.each]
            axes.plot([place] * len(dots), dots, ".", color=style.colour, alpha=0.6)


def in_words(lines: Mapping[str, Iterable[tuple[float, float]]]) -> str:
    """Return the values of lines: ``dense 75.0 % at 1; hydra 62.5 % at 0.1, 50.0 % at 0.01``."""
    return "; ".join(
        f"{label} " + ", ".join(f"{100 * value:.1f} % at {x:.3g}" for x, value in points)
        for label, points in lines.items()
    )


def density_axis(axes: Axes, densities: Iterable[float]) -> None:
    """Give a log axis the densities themselves as ticks, as many as fit."""
    wanted = sorted(set(densities))
    axes.set_xscale("log")
    axes.set_xlim(wanted[0] / 1.35, wanted[-1] * 1.35)
    axes.xaxis.set_major_locator(FixedLocator(spread(wanted)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("density (fraction of weights kept, log scale)")


def spread(values: Sequence[float], *, most: int = 8) -> list[float]:
    """Return those of some ascending values > 0 whose labels do not overlap on a log axis."""
    gap = (values[-1] / values[0]) ** (1 / most)
    kept = [values[0]]
    for value in values[1:-1]:
        if value / kept[-1] >= gap and values[-1] / value >= gap:
            kept.append(value)
    return [*kept, *values[1:][-1:]]


def log_axis(axes: Axes, form: str) -> None:
    """Make the y axis logarithmic, labelled in plain numbers, at 1, 2 and 5 in few decades."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
