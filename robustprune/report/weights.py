"""Kept and pruned weights by magnitude: where a learned mask departs from magnitude pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robustprune.report.figures import Figure, count_axis, draw
from robustprune.report.groups import Group
from robustprune.report.masks import EDGES, Kept, Masks
from robustprune.report.sections import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FLOOR = 0.5  # of the log axis, on which a bar of one weight is to be seen


def section(groups: Sequence[Group], masks: Mapping[str, Masks]) -> Section:
    """A panel for each of some densities."""
    found = Section("weights", "Kept and pruned weights by magnitude")
    found.text.append(
        "Magnitudes are those of the dense network, over the largest of the weight's layer. A "
        "magnitude pruner keeps the right end of each layer; what a learned mask keeps further to "
        "the left, it chose for another reason. What is below grey only is pruned."
    )
    for group in groups:
        read = masks[group.label]
        if read.problem:
            found.missing.append(f"{group.label}: {read.problem}.")
        if len(group.runs) > 1 and read.networks:
            found.text.append(f"{group.label}: of the run with seed {read.seed}.")
        found.figures.extend(_panel(group, *panel) for panel in read.panels(group))
    return found


def _panel(group: Group, density: float, kept: dict[str, Kept]) -> Figure:
    first = next(iter(kept.values()))
    whole = first.kept + first.pruned
    clear = len(kept) < 3  # more fills on top of each other only darken

    def paint(axes: Axes) -> None:
        axes.stairs(whole, EDGES, fill=True, label="all weights", baseline=_FLOOR, color="#dddddd")
        for variant, look in group.looks_of(kept).items():
            counts = kept[variant].kept
            edge = axes.stairs(counts, EDGES, baseline=_FLOOR, color=look.colour, linewidth=1.5)
            edge.set_label(f"kept by {variant}")
            if clear:
                axes.stairs(counts, EDGES, fill=True, baseline=_FLOOR, color=look.colour, alpha=0.2)
        axes.set_xlim(0, 1)
        axes.set_ylim(_FLOOR, 2 * max(int(whole.max()), 1))
        count_axis(axes)
        axes.set_xlabel("|weight| / largest of its layer, dense network")
        axes.set_ylabel("number of weights (log scale)")

    lines = (
        f"{variant} keeps {int(k.kept.sum()):,}, half of them above {k.median:.2f} of their "
        "layer's largest"
        for variant, k in kept.items()
    )
    title = f"{group.label}: density {density:g}"
    alt = f"{int(whole.sum()):,} weights of the dense network by magnitude: {'; '.join(lines)}."
    name = f"weights {group.label} {density:g}"
    return draw(name, title, alt, paint, legend=3 if clear else 2)
