"""Density a layer: how an allocation shares a network's density out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustprune.report.figures import Figure, count_axis, draw
from robustprune.report.groups import Group
from robustprune.report.masks import Kept, Masks
from robustprune.report.sections import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 10  # layers whose names have room below the axis


def section(groups: Sequence[Group], masks: Mapping[str, Masks]) -> Section:
    """A panel for each density."""
    found = Section("layers", "Density a layer")
    found.text.append("Layers from the input to the output; the dotted line is the network's own.")
    for group in groups:
        read = masks[group.label]
        if read.problem:
            found.missing.append(f"{group.label}: {read.problem}.")
        found.figures.extend(_panel(group, *panel) for panel in read.panels(group))
    return found


def _panel(group: Group, density: float, kept: dict[str, Kept]) -> Figure:
    layers = next(iter(kept.values())).layers

    def paint(axes: Axes) -> None:
        for index, (variant, look) in enumerate(group.looks_of(kept).items()):
            shift = 0.14 * (index - (len(kept) - 1) / 2)
            axes.plot(
                [place + shift for place in range(len(layers))],
                [layer.density for layer in kept[variant].layers],
                look.marker,
                label=variant,
                color=look.colour,
            )
        axes.axhline(density, color="black", linestyle=":", linewidth=1)
        low, high = _range(density, kept)
        axes.set_ylim(low, high)
        count_axis(axes, decimals=True)
        axes.set_xlim(-0.6, len(layers) - 0.4)
        axes.set_ylabel("density (log scale)")
        _name_layers(axes, [layer.name or "weight" for layer in layers])

    spans = "; ".join(f"{v} {_span(k)}" for v, k in kept.items())
    title = f"{group.label}: density {density:g}"
    alt = f"Density of each of {len(layers)} layers at density {density:g}: {spans}."
    return draw(f"layers {group.label} {density:g}", title, alt, paint)


def _range(density: float, kept: Mapping[str, Kept]) -> tuple[float, float]:
    """At least a decade, around what is there."""
    found = [layer.density for k in kept.values() for layer in k.layers if layer.kept]
    return min([density, *found]) / 3.2, min(max([density, *found]) * 3.2, 1.5)


def _name_layers(axes: Axes, names: Sequence[str]) -> None:
    if len(names) > _NAMED:
        axes.set_xlabel(f"layer (1 to {len(names)})")
        places = range(0, len(names), -(-len(names) // _NAMED))
        axes.set_xticks(places, [str(place + 1) for place in places])
        return
    axes.set_xlabel("layer")
    long = max(map(len, names)) > 5
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if long else {}
    axes.set_xticks(range(len(names)), names, **turned)


def _span(kept: Kept) -> str:
    densities = [layer.density for layer in kept.layers]
    return f"from {min(densities):.3g} to {max(densities):.3g}"
