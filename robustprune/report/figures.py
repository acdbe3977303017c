"""Figures: one small panel each, which a page puts side by side and a phone one below another."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from robustprune.files import replacing
from robustprune.report.estimates import Estimate
from robustprune.report.groups import Style
from robustprune.report.tables import Table

Points = Sequence[tuple[float, Estimate]]
"""x, and the estimate there."""

LINES = ("-", "--", ":", "-.")
"""Line styles of densities, the largest first."""

_LETTERS = 54  # of a legend's row, handles and gaps included

_STYLE = Path(__file__).with_name("page.mplstyle")
# what would differ from one time to the next
_UNDATED: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


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
    canvas: Canvas = field(compare=False, repr=False)
    """Laid out, to be saved in other formats."""

    def save(self, kind: str) -> bytes:
        """Return the content of a file: ``svg``, ``pdf`` or ``png``; equal input, equal bytes."""
        return _saved(self.canvas, kind)


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
    """Draw a panel of a paper's column, with a legend below the axes.

    It is one row where that fits, otherwise rows of up to ``legend`` columns. The title is left to
    the page, or to a paper's caption.
    """
    with matplotlib.style.context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # shown as a box, as in any program
        canvas = Canvas(layout="constrained")
        axes = canvas.subplots()
        paint(axes)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            found = zip(handles, labels, strict=True)  # matplotlib names error bars last
            pairs = sorted(found, key=lambda pair: not isinstance(pair[0], ErrorbarContainer))
            wide = [len(label) + 5 for label in labels]
            columns = max(1, min(legend, _LETTERS // max(wide)))
            columns = len(wide) if sum(wide) <= _LETTERS else columns
            canvas.legend(*zip(*pairs, strict=True), loc="outside lower center", ncols=columns)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # laid out once, not at each saving
    return Figure(slug(name), title, alt, _saved(canvas, "svg"), canvas)


def _saved(canvas: Canvas, kind: str) -> bytes:
    with matplotlib.style.context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        canvas.savefig(file := io.BytesIO(), format=kind, metadata=_UNDATED[kind])
    return _slim(file.getvalue()) if kind == "svg" else file.getvalue()


def _slim(svg: bytes) -> bytes:
    """Leave out what nobody sees: a page holds dozens, and was twice as heavy with it."""
    svg = re.sub(rb"<metadata>.*?</metadata>", b"", svg, flags=re.DOTALL)
    svg = re.sub(rb"<[^>]*>", _slim_tag, svg)  # a label is no tag, and stays as it is
    return re.sub(rb"\s*\n\s*", b" ", svg)


def _slim_tag(tag: re.Match[bytes]) -> bytes:
    """Drop names that nothing refers to, turns by no angle, and digits below 0.01 of a point."""
    short = re.sub(rb' id="[A-Za-z][\w.]*_\d+"| transform="rotate\(-0 [^)]*\)"', b"", tag[0])
    return re.sub(rb"(\.\d\d)\d+", rb"\1", short)


def write_figures(figures: Iterable[Figure], folder: Path) -> None:
    """Write each as an SVG, which any browser shows, and as a PDF, which LaTeX takes.

    Raises:
        OSError: the folder cannot be written.
    """
    seen: Counter[str] = Counter()
    for figure in figures:
        seen[figure.name] += 1  # labels may differ in characters that no file's name has
        number = f"-{seen[figure.name]}" if seen[figure.name] > 1 else ""
        for kind, content in (("svg", figure.svg), ("pdf", figure.save("pdf"))):
            file = folder / f"{figure.name}{number}.{kind}"
            with replacing(file, durable=False) as temporary:
                temporary.write_bytes(content)


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
