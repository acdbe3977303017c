"""Certified accuracy against radius, from what smoothing certified of each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustprune.arithmetic import written
from robustprune.evaluators.accuracy import interval
from robustprune.report.estimates import mean_interval
from robustprune.report.figures import Figure, draw
from robustprune.report.groups import Group
from robustprune.report.images import read_column
from robustprune.report.judges import Judge, judges
from robustprune.report.sections import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_POINTS = 121  # radii at which a curve and its interval are drawn


class Curve(NamedTuple):
    """Certified accuracy at some radii, with its 95 % interval; fractions."""

    value: Array
    low: Array
    high: Array


def section(groups: Sequence[Group]) -> Section:
    """A panel for each smoothing evaluator and each density."""
    found = Section("certified", "Certified accuracy against radius")
    found.text.append(
        "The share of images that randomized smoothing classifies rightly and certifies at an ℓ2 "
        "radius or more; it speaks of the smoothed classifier. Bands are 95 % intervals, as "
        "above; the dotted line is the radius of the recipe."
    )
    for group in groups:
        smoothing = [j for j in judges(group) if j.document["name"] == "smoothing"]
        for judge in smoothing:
            figures = list(_panels(group, judge))
            found.figures.extend(figures)
            if not figures:
                found.missing.append(
                    f"{group.label}: '{judge.metric}' left no radii: images.parquet is not there, "
                    "or sampling was sequential."
                )
        if not smoothing:
            found.missing.append(f"{group.label}: the recipe does not evaluate by 'smoothing'.")
    return found


def _panels(group: Group, judge: Judge) -> Iterator[Figure]:
    for density in group.few or [1.0]:
        names = {v: n.name for v in group.variants if (n := group.named(v, density)) is not None}
        radii = {
            variant: _radii(group, name, judge.metric)
            for variant, name in ({"dense": "dense"} | names).items()
        }
        radii = {variant: found for variant, found in radii.items() if found}
        if radii:
            yield _panel(group, judge, density, radii)


def _radii(group: Group, network: str, metric: str) -> list[Array]:
    """Each run's certified radii, 0 where an image is wrong or not certified."""
    files = (run.file(network, "images.parquet") for run in group.runs)
    columns = (read_column(path, f"{metric}_radius") for path in files if path is not None)
    found = [column for column in columns if column is not None and len(column)]
    return [np.where(np.isfinite(column), column, 0.0) for column in found]


def certified(runs: Sequence[Array], at: Array) -> Curve:
    """Certified accuracy at each radius of ``at``: of one run, or the mean over several.

    An image counts at a radius r if it is certified there, which at 0 means certified at all.
    """
    counts = np.array([[np.sum((r >= x) & (r > 0)) for x in at] for r in runs])
    shares = counts / np.array([[len(r)] for r in runs])
    if len(runs) == 1:
        ends = [interval(int(count), len(runs[0])) for count in counts[0]]
    else:
        ends = [mean_interval(column) for column in shares.T.tolist()]  # type: ignore[misc]
    low, high = np.array(ends).T
    return Curve(shares.mean(0), low, high)


def _panel(group: Group, judge: Judge, density: float, radii: dict[str, list[Array]]) -> Figure:
    wanted = float(getattr(judge.part, "radius", 0.0))
    longest = max(float(r.max()) for runs in radii.values() for r in runs)
    at = np.linspace(0, max(1.05 * longest, 1.2 * wanted, 0.1), _POINTS)
    curves = {variant: certified(runs, at) for variant, runs in radii.items()}

    def paint(axes: Axes) -> None:
        for variant, look in group.looks_of(curves).items():
            curve = curves[variant]
            axes.step(at, 100 * curve.value, where="post", label=variant, color=look.colour)
            band: dict[str, Any] = {
                "color": look.colour,
                "alpha": 0.15,
                "linewidth": 0,
                "step": "post",
            }
            axes.fill_between(at, 100 * curve.low, 100 * curve.high, **band)
        axes.axvline(wanted, color="black", linestyle=":", linewidth=1)
        axes.set_xlim(0, at[-1])
        axes.set_ylim(-2, 102)
        axes.set_xlabel("certified radius (ℓ2, pixels in [0, 1])")
        axes.set_ylabel("certified accuracy (%)")

    sigma = getattr(judge.part, "sigma", None)
    title = f"{group.label}: {judge.metric}, density {density:g}"
    there = {v: certified(runs, np.array([wanted])).value[0] for v, runs in radii.items()}
    shares = ", ".join(f"{variant} {100 * share:.1f} %" for variant, share in there.items())
    alt = (
        f"Certified accuracy against ℓ2 radius at density {density:g}, σ = {sigma}: at "
        f"{written(wanted)} {shares}."
    )
    return draw(f"certified {group.label} {judge.metric} {density:g}", title, alt, paint)
