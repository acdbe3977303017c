"""Accuracy against density: what a pruner gives up for a smaller network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from robustprune.report.estimates import Estimate
from robustprune.report.figures import Figure, density_axis, dodge, draw, percent_axis
from robustprune.report.groups import Group
from robustprune.report.judges import judges
from robustprune.report.looks import Look
from robustprune.report.sections import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, Estimate]]


def section(groups: Sequence[Group]) -> Section:
    """A panel for each accuracy of each recipe."""
    found = Section("accuracy", "Accuracy against density")
    found.text.append(
        "The dense network is at density 1, and the dotted line goes on at its height. Bars are "
        "95 % intervals: of several runs the Student interval of their mean over seeds (wide for "
        "two or three, which dots show one by one), of one run the Wilson interval over its images."
    )
    for group in groups:
        if not group.densities:
            found.missing.append(f"{group.label}: no pruned network has been measured.")
        for metric, title in _metrics(group).items():
            found.figures.extend(_panel(group, metric, title))
        found.missing.extend(_unmeasured(group))
    if any(group.paper and group.paper.metrics for group in groups):
        found.text.append("Hollow markers on dashed lines are the paper's own numbers.")
    return found


def _unmeasured(group: Group) -> Iterator[str]:
    """What the paper reports and this recipe did not measure, under that name."""
    for metric in (group.paper.metrics or {}) if group.paper else {}:
        if metric not in group.metrics:
            yield f"{group.label}: the paper's '{metric}' was not measured here."


def _metrics(group: Group) -> dict[str, str]:
    """The accuracies to draw, and how each was measured: the evaluators' own, not side results."""
    fractions = [name for name, fraction in group.metrics.items() if fraction]
    known = {judge.metric: judge.described for judge in judges(group)}
    main = [name for name in fractions if name in known]
    return {name: known.get(name, name) for name in main or fractions}


def _panel(group: Group, metric: str, title: str) -> Iterator[Figure]:
    series = {variant: _points(group, variant, metric) for variant in group.variants}
    series = {variant: points for variant, points in series.items() if points}
    if not series:
        return
    dense = group.estimate("dense", metric)
    paper = group.paper.points(metric) if group.paper else {}

    def paint(axes: Axes) -> None:
        if dense is not None:
            _errorbar(axes, [(1.0, dense)], "dense", group.looks["dense"], 1.0)
            axes.axhline(100 * dense.value, color="black", linestyle=":", linewidth=1)
        for index, (variant, look) in enumerate(group.looks_of(series).items()):
            _errorbar(axes, series[variant], variant, look, dodge(index, len(series)))
        for variant, look in group.looks_of(paper).items():
            _paper_line(axes, paper[variant], f"{variant}, paper", look)
        densities = [x for points in series.values() for x, _ in points]
        cited = [x for points in paper.values() for x, _ in points]
        density_axis(axes, [*densities, *cited, *([1.0] if dense else [])])
        percent_axis(axes, f"{metric} accuracy (%)")

    name, heading = f"accuracy {group.label} {metric}", f"{group.label}: {title}"
    yield draw(name, heading, _alt(title, series, dense, paper), paint)


def _points(group: Group, variant: str, metric: str) -> Points:
    networks = ((d, group.named(variant, d)) for d in group.densities)
    estimates = ((d, group.estimate(n.name, metric)) for d, n in networks if n is not None)
    return [(density, found) for density, found in estimates if found is not None]


def _errorbar(axes: Axes, points: Points, label: str, look: Look, factor: float) -> None:
    below, above = zip(*(found.error for _, found in points), strict=True)
    axes.errorbar(
        [density * factor for density, _ in points],
        [100 * found.value for _, found in points],
        yerr=[[100 * e for e in below], [100 * e for e in above]],
        label=label,
        color=look.colour,
        marker=look.marker,
    )
    for density, found in points:
        values = [100 * value for value in found.each]
        if len(values) > 1:
            axes.plot([density * factor] * len(values), values, ".", color=look.colour, alpha=0.6)


def _paper_line(axes: Axes, points: list[tuple[float, float]], label: str, look: Look) -> None:
    densities, values = zip(*points, strict=True)
    axes.plot(
        densities,
        [100 * value for value in values],
        label=label,
        color=look.colour,
        marker=look.marker,
        markerfacecolor="white",
        linestyle="--",
        linewidth=1,
    )


def _alt(
    title: str,
    series: Mapping[str, Points],
    dense: Estimate | None,
    paper: Mapping[str, Sequence[tuple[float, float]]],
) -> str:
    """The figure in words: every value of every line."""
    ours = {v: [(d, found.value) for d, found in points] for v, points in series.items()}
    lines = {"dense": [(1.0, dense.value)]} if dense else {}
    cited = {f"{variant} in the paper": points for variant, points in paper.items()}
    words = (
        f"{label} " + ", ".join(f"{100 * value:.1f} % at {d:g}" for d, value in points)
        for label, points in (lines | ours | cited).items()
    )
    return f"Accuracy ({title}) against density: {'; '.join(words)}."
