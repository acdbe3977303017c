"""Training curves, from each network's ``history.json``."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robustprune.report.figures import LINES, Figure, Section, draw
from robustprune.report.groups import Group
from robustprune.report.runs import Network

# what every stage has, and what it is drawn in
_METRICS = {
    "loss": ("loss", 1),
    "accuracy": ("training accuracy (%)", 100),
    "val_accuracy": ("validation accuracy (%)", 100),
    "turnover": ("turnover (%)", 100),
}


_Line = tuple[Network, list[int], list[float]]
"""A network, its epochs and their values."""


def section(groups: Sequence[Group]) -> Section:
    """Draw a panel for each stage and each of loss, accuracies and turnover."""
    found = Section("curves", "Training curves")
    found.text.append(
        "One line per network and seed. The loss is the recipe's objective; accuracies are on "
        "untouched images; turnover is the share of kept weights that the first mask did not "
        "keep. Line styles tell densities apart (at 0.1, …)."
    )
    for group in groups:
        histories = [
            (network, sorted(run.history(network.name), key=lambda epoch: epoch.epoch))
            for run in group.runs
            for network in run.results.networks
            if network.variant == "dense" or network.density in group.few
        ]
        stages: dict[str, str] = {}  # in the order of training; of numbered rounds the last
        for name in dict.fromkeys(epoch.stage for _, epochs in histories for epoch in epochs):
            kind, _, number = name.rpartition("-")
            stages[f"{kind}-" if number.isdecimal() else name] = name
        if not stages:
            found.missing.append(f"{group.label}: no history.json is there.")
        for stage in stages.values():
            for metric in _METRICS:
                lines = []
                for network, epochs in histories:
                    drawn = [e for e in epochs if e.stage == stage and metric in e.metrics]
                    values = [e.metrics[metric] for e in drawn]
                    lines.append((network, [e.epoch for e in drawn], values))
                if lines := [line for line in lines if line[1]]:
                    found.figures.append(_panel(group, stage, metric, lines))
    return found


def _panel(group: Group, stage: str, metric: str, lines: Sequence[_Line]) -> Figure:
    words, scale = _METRICS[metric]
    variants = group.styles_of(network.variant for network, _, _ in lines)
    pruned = [d for d in group.few if d in [network.density for network, _, _ in lines]]
    styles = {density: LINES[index % len(LINES)] for index, density in enumerate(pruned)}

    def paint(axes: Axes) -> None:
        for network, epochs, values in lines:
            axes.plot(
                epochs,
                [scale * value for value in values],
                styles.get(network.density, "-"),
                color=variants[network.variant].colour,
                marker="." if len(epochs) == 1 else None,
                linewidth=1.2,
            )
        for variant, style in variants.items():
            axes.plot([], [], color=style.colour, label=variant)
        for density, dashes in styles.items():
            axes.plot([], [], dashes, color="#555555", label=f"at {density:g}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.set_ylabel(words)

    ends = ", ".join(f"{n.name} {scale * values[-1]:.3g}" for n, _, values in lines)
    alt = f"{words} of the {stage} stage against the epoch; at the end {ends}."
    name = f"curves {group.label} {stage} {metric}"
    return draw(name, f"{group.label}: {stage}", alt, paint, legend=4)
