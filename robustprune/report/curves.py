"""Training curves, from each network's ``history.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from robustprune.report.documents import Epoch, Network
from robustprune.report.figures import Figure, draw
from robustprune.report.groups import Group
from robustprune.report.looks import STYLES
from robustprune.report.sections import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# what every stage has, and whether it is drawn in percent
_METRICS = {"loss": False, "accuracy": True, "val_accuracy": True, "turnover": True}
_WORDS = {
    "loss": "loss",
    "accuracy": "training accuracy (%)",
    "val_accuracy": "validation accuracy (%)",
    "turnover": "turnover (%)",
}


@dataclass(frozen=True)
class _Line:
    network: Network
    epochs: list[Epoch]


def section(groups: Sequence[Group]) -> Section:
    """A panel for each stage and each of loss, accuracies and turnover."""
    found = Section("curves", "Training curves")
    found.text.append(
        "One line a network and seed. The loss is the recipe's objective; accuracies are on "
        "untouched images; turnover is the share of kept weights that the first mask did not "
        "keep. Line styles tell densities apart (at 0.1, …)."
    )
    for group in groups:
        lines = [
            _Line(network, epochs)
            for run in group.runs
            for network in run.results.networks
            if network.variant == "dense" or network.density in group.few
            if (epochs := run.history(network.name))
        ]
        if not lines:
            found.missing.append(f"{group.label}: no history.json is there.")
        for stage in _stages(lines):
            found.figures.extend(_panels(group, stage, lines))
    return found


def _stages(lines: Sequence[_Line]) -> list[str]:
    """The stages in the order in which networks pass them; of numbered rounds the last."""
    last: dict[str, str] = {}
    for name in dict.fromkeys(epoch.stage for line in lines for epoch in line.epochs):
        kind, _, number = name.rpartition("-")
        last[f"{kind}-" if number.isdecimal() else name] = name
    return list(last.values())


def _panels(group: Group, stage: str, lines: Sequence[_Line]) -> Iterator[Figure]:
    for metric in _METRICS:
        drawn = [(line.network, points) for line in lines
                 if (points := _points(line.epochs, stage, metric))]  # fmt: skip
        if drawn:
            yield _panel(group, stage, metric, drawn)


def _points(epochs: Sequence[Epoch], stage: str, metric: str) -> list[tuple[int, float]]:
    found = [(e.epoch, e.metrics[metric]) for e in epochs
             if e.stage == stage and metric in e.metrics]  # fmt: skip
    return sorted(found)


def _panel(
    group: Group, stage: str, metric: str, lines: list[tuple[Network, list[tuple[int, float]]]]
) -> Figure:
    scale = 100 if _METRICS[metric] else 1
    variants = group.looks_of(network.variant for network, _ in lines)
    pruned = [density for density in group.few if any(n.density == density for n, _ in lines)]
    styles = {density: STYLES[index % len(STYLES)] for index, density in enumerate(pruned)}

    def paint(axes: Axes) -> None:
        for network, points in lines:
            axes.plot(
                [epoch for epoch, _ in points],
                [scale * value for _, value in points],
                styles.get(network.density, "-"),
                color=variants[network.variant].colour,
                marker="." if len(points) == 1 else None,
                linewidth=1.2,
            )
        for variant, look in variants.items():
            axes.plot([], [], color=look.colour, label=variant)
        for density, style in styles.items():
            axes.plot([], [], style, color="#555555", label=f"at {density:g}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(_WORDS[metric])

    ends = ", ".join(f"{n.name} {scale * points[-1][1]:.3g}" for n, points in lines)
    alt = f"{_WORDS[metric]} of the {stage} stage against the epoch; at the end {ends}."
    title = f"{group.label}: {stage}"
    return draw(f"curves {group.label} {stage} {metric}", title, alt, paint, legend=4)
