"""The weights that masks keep of a dense network: by magnitude, and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import kept_weights
from robustprune.errors import UsageError
from robustprune.masking import LayerReport
from robustprune.report.figures import Figure, Section, draw, log_axis
from robustprune.report.groups import Group

BINS = 40
EDGES = np.linspace(0, 1, BINS + 1)
"""Edges of the histograms' bins: magnitude over the largest of the layer."""

_FLOOR = 0.5  # of the log axis, on which a bar of one weight is to be seen
_NAMED = 10  # layers whose names have room below the axis


class Kept(NamedTuple):
    """The weights that one network keeps."""

    layers: list[LayerReport]
    """In the network's order."""
    kept: NDArray[Any]
    """``(BINS,)``: how many weights of each magnitude in the dense network are kept."""
    pruned: NDArray[Any]
    """``(BINS,)``: how many are not."""
    median: float
    """Magnitude of the kept weights in the dense network."""


def sections(groups: Sequence[Group]) -> list[Section]:
    """Draw two panels for each of some densities: weights by magnitude, and density per layer."""
    weights = Section("weights", "Kept and pruned weights by magnitude")
    weights.text.append(
        "Magnitudes are those of the dense network, over the largest of the weight's layer. A "
        "magnitude pruner keeps the right end of each layer; what a learned mask keeps further to "
        "the left, it chose for another reason. What is below grey only is pruned."
    )
    layers = Section("layers", "Density per layer")
    layers.text.append("Layers from the input to the output; the dotted line is the network's own.")
    for group in groups:
        try:
            seed, masks = read_masks(group)
        except UsageError as error:
            for section in (weights, layers):
                section.missing.append(f"{group.label}: {error}.")
            continue
        if len(group.runs) > 1:
            weights.text.append(f"{group.label}: of the run with seed {seed}.")
        for density in group.few:
            names = group.at(density).items()
            if kept := {variant: masks[name] for variant, name in names if name in masks}:
                weights.figures.append(_histogram(group, density, kept))
                layers.figures.append(_per_layer(group, density, kept))
    return [weights, layers]


def read_masks(group: Group) -> tuple[int, dict[str, Kept]]:
    """Return the seed of a group's first run with files, and what its pruned networks keep.

    Raises:
        UsageError: files are missing, damaged, or do not fit each other.
    """
    run = next((run for run in group.runs if "dense" in run.models), group.runs[0])
    there = run.models
    if "dense" not in there:
        raise UsageError("the model files are not there")
    shares = {}
    for name, parameter in read_model(there.pop("dense")).model.named_parameters():
        magnitude = parameter.detach().abs().float().numpy()
        shares[name] = magnitude / max(float(magnitude.max(initial=0)), 1e-30)  # of zeros, 0
    if not there:
        raise UsageError("it has no pruned network whose model file is there")
    found = {name: _kept(name, read_model(file), shares) for name, file in there.items()}
    return run.results.seed, found


def _kept(network: str, saved: SavedModel, magnitudes: Mapping[str, NDArray[Any]]) -> Kept:
    kept, pruned = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for name, mask in saved.masks.items():
        if name not in magnitudes or magnitudes[name].shape != tuple(mask.shape):
            raise UsageError(f"the masks of '{network}' do not fit the dense network")
        chosen = mask.numpy()
        kept.append(magnitudes[name][chosen])
        pruned.append(magnitudes[name][~chosen])
    weights = np.concatenate(kept)
    counts, rest = (np.histogram(x, EDGES)[0] for x in (weights, np.concatenate(pruned)))
    median = float(np.median(weights)) if len(weights) else 0.0
    return Kept(kept_weights(saved), counts, rest, median)


def _histogram(group: Group, density: float, kept: Mapping[str, Kept]) -> Figure:
    first = next(iter(kept.values()))
    every = first.kept + first.pruned
    clear = len(kept) < 3  # more fills on top of each other only darken

    def paint(axes: Axes) -> None:
        axes.stairs(every, EDGES, fill=True, label="all weights", baseline=_FLOOR, color="#dddddd")
        for variant, style in group.styles_of(kept).items():
            bars: dict[str, Any] = {"baseline": _FLOOR, "color": style.colour}
            label = f"kept by {variant}"
            axes.stairs(kept[variant].kept, EDGES, linewidth=1.5, label=label, **bars)
            if clear:
                axes.stairs(kept[variant].kept, EDGES, fill=True, alpha=0.2, **bars)
        axes.set_xlim(0, 1)
        axes.set_ylim(_FLOOR, 2 * max(int(every.max()), 1))
        log_axis(axes, "{:,.0f}")
        axes.set_xlabel("|weight| / largest of its layer, dense network")
        axes.set_ylabel("number of weights (log scale)")

    lines = (
        f"{variant} keeps {int(k.kept.sum()):,}, half of them above {k.median:.2f} of their "
        "layer's largest"
        for variant, k in kept.items()
    )
    title, name = f"{group.label}: density {density:g}", f"weights {group.label} {density:g}"
    alt = f"{int(every.sum()):,} weights of the dense network by magnitude: {'; '.join(lines)}."
    return draw(name, title, alt, paint, legend=3 if clear else 2)


def _per_layer(group: Group, density: float, kept: Mapping[str, Kept]) -> Figure:
    densities = {variant: [layer.density for layer in k.layers] for variant, k in kept.items()}
    names = [layer.name or "weight" for layer in next(iter(kept.values())).layers]

    def paint(axes: Axes) -> None:
        for index, (variant, style) in enumerate(group.styles_of(kept).items()):
            places = np.arange(len(names)) + 0.14 * (index - (len(kept) - 1) / 2)
            axes.plot(places, densities[variant], style.marker, label=variant, color=style.colour)
        axes.axhline(density, color="black", linestyle=":", linewidth=1)
        drawn = [density, *(value for found in densities.values() for value in found if value)]
        axes.set_ylim(min(drawn) / 3.2, min(max(drawn) * 3.2, 1.5))  # at least a decade
        log_axis(axes, "{:g}")
        axes.set_ylabel("density (log scale)")
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_xlabel("layer")
        if len(names) > _NAMED:
            axes.set_xlabel(f"layer (1 to {len(names)})")
            ticks = range(0, len(names), -(-len(names) // _NAMED))
            axes.set_xticks(ticks, [str(place + 1) for place in ticks])
        else:
            long: Any = {"rotation": 30, "ha": "right"} if max(map(len, names)) > 5 else {}
            axes.set_xticks(range(len(names)), names, **long)

    spans = (f"{v} from {min(found):.3g} to {max(found):.3g}" for v, found in densities.items())
    title = f"{group.label}: density {density:g}"
    alt = f"Density of each of {len(names)} layers at density {density:g}: {'; '.join(spans)}."
    return draw(f"layers {group.label} {density:g}", title, alt, paint)
