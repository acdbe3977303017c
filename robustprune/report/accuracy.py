"""Accuracy against density, against the radius of attacks, and against the certified radius."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from robustprune.arithmetic import written
from robustprune.evaluators.accuracy import interval
from robustprune.evaluators.base import Evaluator
from robustprune.report.estimates import Estimate, estimate, mean_interval
from robustprune.report.figures import (
    Figure,
    Points,
    Section,
    density_axis,
    draw,
    error_bars,
    in_words,
)
from robustprune.report.groups import Group
from robustprune.report.runs import Metrics
from robustprune.types import Threat

Array = NDArray[np.float64]

NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
# what may change along a curve over eps: the step follows the radius
_ALONG = {"label", "samples", "batch_size", "eps", "step_size", "args"}
_POINTS = 121  # radii at which a certified curve and its interval are drawn


def section(groups: Sequence[Group]) -> Section:
    """Draw a panel for each accuracy of each recipe."""
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
        found.missing.extend(
            f"{group.label}: the paper's '{metric}' was not measured here."
            for metric in (group.paper.metrics or {} if group.paper else {})
            if metric not in group.metrics
        )
    if any(group.paper and group.paper.metrics for group in groups):
        found.text.append("Hollow markers on dashed lines are the paper's own numbers.")
    return found


def ball(threat: Threat) -> str:
    """Return ``ℓ∞ ε = 8/255``, with spaces at which no line is broken."""
    return f"{NORMS[threat.norm]} ε = {written(threat.eps)}".replace(" ", "\N{NO-BREAK SPACE}")


def _metrics(group: Group) -> dict[str, str]:
    """Return the accuracies to draw, the evaluators' own, and the balls they were measured in."""
    titles = {}
    for evaluator in group.evaluators:
        threat = evaluator.refutes or evaluator.claims
        titles[evaluator.metric] = evaluator.metric + (f", {ball(threat)}" if threat else "")
    fractions = [name for name, fraction in group.metrics.items() if fraction]
    main = [name for name in fractions if name in titles]
    return {name: titles.get(name, name) for name in main or fractions}


def _panel(group: Group, metric: str, title: str) -> Iterator[Figure]:
    dense = group.estimate("dense", metric)
    series: dict[str, list[tuple[float, Estimate]]] = {}
    for density in group.densities:
        for variant, network in group.at(density).items():
            if (value := group.estimate(network, metric)) is not None:
                series.setdefault(variant, []).append((density, value))
    paper = group.paper.points(metric) if group.paper else {}
    if not series:
        return

    def paint(axes: Axes) -> None:
        if dense is not None:
            error_bars(axes, [(1.0, dense)], "dense", group.styles["dense"])
            axes.axhline(100 * dense.value, color="black", linestyle=":", linewidth=1)
        for index, (variant, style) in enumerate(group.styles_of(series).items()):
            apart = 1.035 ** (index - (len(series) - 1) / 2)  # so that no bar hides another
            error_bars(axes, series[variant], variant, style, factor=apart)
        for variant, style in group.styles_of(paper).items():
            axes.plot(
                [density for density, _ in paper[variant]],
                [100 * value for _, value in paper[variant]],
                label=f"{variant}, paper",
                color=style.colour,
                marker=style.marker,
                markerfacecolor="white",
                linestyle="--",
                linewidth=1,
            )
        density_axis(axes, [x for points in [*ours.values(), *paper.values()] for x, _ in points])
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2.0), min(high, 102.0))
        axes.set_ylabel(f"{metric} accuracy (%)")

    ours = {"dense": [(1.0, dense.value)]} if dense else {}
    ours |= {v: [(d, found.value) for d, found in points] for v, points in series.items()}
    words = in_words(ours | {f"{variant} in the paper": found for variant, found in paper.items()})
    name, heading = f"accuracy {group.label} {metric}", f"{group.label}: {title}"
    yield draw(name, heading, f"Accuracy ({title}) against density: {words}.", paint)


def security(groups: Sequence[Group]) -> Section:
    """Draw a panel for each evaluator that stands at several radii, and each density."""
    found = Section("security", "Accuracy against ε")
    found.text.append(
        "One evaluator at several radii; at 0 the accuracy on the same images untouched. An attack "
        "bounds robust accuracy from above, a certificate from below. Bars are 95 % intervals, as "
        "above."
    )
    for group in groups:
        families: dict[str, dict[float, Evaluator]] = {}
        for evaluator in group.evaluators:
            if threat := evaluator.refutes or evaluator.claims:
                family = f"{evaluator.model_dump(exclude=_ALONG)} {threat.norm}"
                families.setdefault(family, {})[threat.eps] = evaluator
        curves = [members for members in families.values() if len(members) > 1]
        for members in curves:
            found.figures.extend(_attacked(group, members))
        if not curves:
            found.missing.append(
                f"{group.label}: no evaluator stands at two or more radii. Add entries to "
                "'evaluate:' that differ in 'eps' and 'label'."
            )
    return found


def _attacked(group: Group, members: dict[float, Evaluator]) -> Iterator[Figure]:
    first = next(iter(members.values()))
    threat = first.refutes or first.claims
    kind, norm = first.registered_name, NORMS[threat.norm] if threat else ""
    for density in group.few or [1.0]:
        names = {"dense": "dense"} | group.at(density)
        curves = {variant: _curve(group, name, members) for variant, name in names.items()}
        curves = {variant: points for variant, points in curves.items() if len(points) > 1}

        def paint(axes: Axes, curves: dict[str, Points] = curves) -> None:
            for variant, style in group.styles_of(curves).items():
                error_bars(axes, curves[variant], variant, style)
            axes.set_xlabel(f"radius ε ({norm}, pixels in [0, 1])")
            axes.set_ylabel(f"{kind} accuracy (%)")
            axes.set_ylim(-2, 102)

        words = in_words({v: [(x, found.value) for x, found in c] for v, c in curves.items()})
        alt = f"Accuracy under {kind} against ε at density {density:g}: {words}."
        name = f"security {group.label} {norm} {first.metric} {density:g}"
        yield draw(name, f"{group.label}: {kind}, density {density:g}", alt, paint)


def _curve(group: Group, network: str, members: dict[float, Evaluator]) -> Points:
    """Return the accuracy at each radius, and the clean one at 0, all on the same images."""
    metrics = {eps: evaluator.metric for eps, evaluator in members.items()}
    for evaluator in group.evaluators:
        if evaluator.registered_name == "clean":
            metrics.setdefault(0.0, evaluator.metric)
    found = {eps: group.estimate(network, metric) for eps, metric in metrics.items()}
    images = {measured.images for measured in found.values() if measured is not None}
    if len(images) > 1:
        least = min(count for count in images if count is not None)
        for eps, measured in found.items():
            if measured is not None and measured.images != least:
                found[eps] = _on_first(group, network, metrics[eps], least)
    return sorted((eps, measured) for eps, measured in found.items() if measured is not None)


def _on_first(group: Group, network: str, metric: str, n: int) -> Estimate | None:
    """Return a metric on the first ``n`` images, over the runs that tell what became of each."""
    columns = [run.column(network, metric) for run in group.runs]
    correct = [int((c[:n] > 0).sum()) for c in columns if c is not None and len(c) >= n]
    counted: list[Metrics] = [
        {metric: count / n, f"{metric}_n": n, f"{metric}_interval": list(interval(count, n))}
        for count in correct
    ]
    return estimate(counted, metric)


def certified(groups: Sequence[Group]) -> Section:
    """Draw a panel for each smoothing evaluator and each density."""
    found = Section("certified", "Certified accuracy against radius")
    found.text.append(
        "The share of images that randomized smoothing classifies rightly and certifies at an ℓ2 "
        "radius or more; it speaks of the smoothed classifier. Bands are 95 % intervals, as "
        "above; the dotted line is the radius of the recipe."
    )
    for group in groups:
        smoothing = [e for e in group.evaluators if e.registered_name == "smoothing"]
        for evaluator in smoothing:
            found.figures += (figures := list(_smoothed(group, evaluator)))
            if not figures:
                found.missing.append(
                    f"{group.label}: '{evaluator.metric}' left no radii: images.parquet is not "
                    "there, or sampling was sequential."
                )
        if not smoothing:
            found.missing.append(f"{group.label}: the recipe does not evaluate by 'smoothing'.")
    return found


def _smoothed(group: Group, evaluator: Evaluator) -> Iterator[Figure]:
    wanted = float(getattr(evaluator, "radius", 0.0))
    for density in group.few or [1.0]:
        names = {"dense": "dense"} | group.at(density)
        radii: dict[str, list[Array]] = {}
        for variant, name in names.items():
            for run in group.runs:
                column = run.column(name, f"{evaluator.metric}_radius")
                if column is not None and len(column):
                    kept = np.where(np.isfinite(column), column, 0.0)
                    radii.setdefault(variant, []).append(kept)
        if not radii:
            continue
        longest = max(float(r.max()) for runs in radii.values() for r in runs)
        at = np.linspace(0, max(1.05 * longest, 1.2 * wanted, 0.1), _POINTS)
        curves = {variant: 100 * share_certified(runs, at) for variant, runs in radii.items()}

        def paint(axes: Axes, at: Array = at, curves: dict[str, Array] = curves) -> None:
            for variant, style in group.styles_of(curves).items():
                value, low, high = curves[variant]
                axes.step(at, value, where="post", label=variant, color=style.colour)
                axes.fill_between(
                    at, low, high, step="post", color=style.colour, alpha=0.15, linewidth=0
                )
            axes.axvline(wanted, color="black", linestyle=":", linewidth=1)
            axes.set_xlim(0, at[-1])
            axes.set_ylim(-2, 102)
            axes.set_xlabel("certified radius (ℓ2, pixels in [0, 1])")
            axes.set_ylabel("certified accuracy (%)")

        there = {v: share_certified(runs, np.array([wanted]))[0, 0] for v, runs in radii.items()}
        words = ", ".join(f"{variant} {100 * share:.1f} %" for variant, share in there.items())
        alt = (
            f"Certified accuracy against ℓ2 radius at density {density:g}, σ = "
            f"{getattr(evaluator, 'sigma', None)}: at {written(wanted)} {words}."
        )
        title = f"{group.label}: {evaluator.metric}, density {density:g}"
        yield draw(f"certified {group.label} {evaluator.metric} {density:g}", title, alt, paint)


def share_certified(runs: Sequence[Array], at: Array) -> Array:
    """Return ``(3, n)``: the mean certified accuracy at each of n radii, and its 95 % interval.

    ``runs`` are each run's certified radii, 0 where an image is wrong or not certified at all.
    """
    counts = np.array([[np.sum((r >= x) & (r > 0)) for x in at] for r in runs])
    shares = counts / np.array([[len(r)] for r in runs])
    if len(runs) == 1:
        ends = [tuple(interval(int(count), len(runs[0]))) for count in counts[0]]
    else:
        ends = [mean_interval(column) for column in shares.T.tolist()]
    return np.array([shares.mean(0), *np.array(ends).T])
