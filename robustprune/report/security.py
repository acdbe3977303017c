"""The security curve: accuracy against the radius of the ball."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from robustprune.evaluators.accuracy import interval
from robustprune.report.documents import Metrics
from robustprune.report.estimates import Estimate, estimate
from robustprune.report.figures import Figure, draw
from robustprune.report.groups import Group
from robustprune.report.images import read_column
from robustprune.report.judges import Judge, judges, norm
from robustprune.report.sections import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = list[tuple[float, Estimate]]


def section(groups: Sequence[Group]) -> Section:
    """A panel for each evaluator that stands at several radii, and each density."""
    found = Section("security", "Accuracy against ε")
    found.text.append(
        "One evaluator at several radii; at 0 the accuracy on the same images untouched. An attack "
        "bounds robust accuracy from above, a certificate from below. Bars are 95 % intervals, as "
        "above."
    )
    for group in groups:
        families = _families(group)
        for members in families:
            found.figures.extend(_panels(group, members))
        if not families:
            found.missing.append(
                f"{group.label}: no evaluator stands at two or more radii. Add entries to "
                "'evaluate:' that differ in 'eps' and 'label'."
            )
    return found


def _families(group: Group) -> list[list[Judge]]:
    """Evaluators that differ in their radius only, where there are at least two radii."""
    families: dict[str, list[Judge]] = {}
    for judge in judges(group):
        if judge.threat is not None:
            families.setdefault(judge.family, []).append(judge)
    return [members for members in families.values() if len({_eps(m) for m in members}) > 1]


def _panels(group: Group, members: Sequence[Judge]) -> Iterator[Figure]:
    for density in group.few or [1.0]:
        names = {v: n.name for v in group.variants if (n := group.named(v, density)) is not None}
        curves = {variant: _curve(group, name, members) for variant, name in names.items()}
        curves = {"dense": _curve(group, "dense", members)} | curves
        yield _panel(group, members[0], density, {v: c for v, c in curves.items() if len(c) > 1})


def _curve(group: Group, network: str, members: Sequence[Judge]) -> Curve:
    """What the evaluators found at their radii, and the clean accuracy at 0, on the same images."""
    metrics = {_eps(judge): judge.metric for judge in members}
    clean = next((judge for judge in judges(group) if judge.document["name"] == "clean"), None)
    if clean is not None:
        metrics[0.0] = clean.metric
    found = {eps: group.estimate(network, metric) for eps, metric in metrics.items()}
    images = {estimate.images for estimate in found.values() if estimate is not None}
    if len(images) > 1:
        least = min(n for n in images if n is not None)
        found = {eps: _first(group, network, m, least) for eps, m in metrics.items()}
    return sorted((eps, estimate) for eps, estimate in found.items() if estimate is not None)


def _first(group: Group, network: str, metric: str, images: int) -> Estimate | None:
    """A metric on the first images only: as measured if there are no more, or counted anew."""
    entries = []
    for run in group.runs:
        entry = run.network(network)
        if entry is not None and entry.metrics.get(f"{metric}_n") == images:
            entries.append(entry.metrics)
            continue
        path = run.file(network, "images.parquet")
        column = None if path is None else read_column(path, metric)
        if column is not None and len(column) >= images:
            entries.append(_counted(metric, int((column[:images] > 0).sum()), images))
    return estimate(entries, metric)


def _counted(metric: str, correct: int, images: int) -> Metrics:
    ends = list(interval(correct, images))
    return {metric: correct / images, f"{metric}_n": images, f"{metric}_interval": ends}


def _panel(group: Group, judge: Judge, density: float, curves: dict[str, Curve]) -> Figure:
    what = str(judge.document["name"])
    assert judge.threat is not None
    radius = f"radius ε ({norm(judge.threat)}, pixels in [0, 1])"

    def paint(axes: Axes) -> None:
        for variant, look in group.looks_of(curves).items():
            below, above = zip(*(found.error for _, found in curves[variant]), strict=True)
            axes.errorbar(
                [eps for eps, _ in curves[variant]],
                [100 * found.value for _, found in curves[variant]],
                yerr=[[100 * e for e in below], [100 * e for e in above]],
                label=variant,
                color=look.colour,
                marker=look.marker,
            )
        axes.set_xlabel(radius)
        axes.set_ylabel(f"{what} accuracy (%)")
        axes.set_ylim(-2, 102)

    title = f"{group.label}: {what}, density {density:g}"
    lines = (
        f"{variant} " + ", ".join(f"{100 * f.value:.1f} % at {eps:.3g}" for eps, f in curve)
        for variant, curve in curves.items()
    )
    alt = f"Accuracy under {what} against ε at density {density:g}: {'; '.join(lines)}."
    name = f"security {group.label} {norm(judge.threat)} {judge.metric} {density:g}"
    return draw(name, title, alt, paint)


def _eps(judge: Judge) -> float:
    return judge.threat.eps if judge.threat else 0.0
