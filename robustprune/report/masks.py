"""What masks keep of a dense network: read once, for two sections of the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import kept_weights
from robustprune.errors import UsageError
from robustprune.masking import LayerReport
from robustprune.report.groups import Group
from robustprune.report.runs import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BINS = 40
EDGES = np.linspace(0, 1, BINS + 1)
"""Of the histograms: magnitude over the largest of the layer."""


@dataclass(frozen=True)
class Kept:
    """What one network keeps.

    Attributes:
        network: its name.
        layers: each prunable layer's counts, in the network's order.
        kept: ``(BINS,)``, how many weights of each magnitude in the dense network are kept.
        pruned: ``(BINS,)``, how many are not.
        median: magnitude of the kept weights in the dense network, in the middle.
    """

    network: str
    layers: list[LayerReport]
    kept: Array
    pruned: Array
    median: float


@dataclass(frozen=True)
class Masks:
    """The masks of the first run of a group whose files are there.

    Attributes:
        seed: of that run; None if there is none.
        networks: by name; without those whose files are missing.
        problem: why something is missing; empty if nothing is.
    """

    seed: int | None
    networks: dict[str, Kept]
    problem: str = ""

    def panels(self, group: Group) -> Iterator[tuple[float, dict[str, Kept]]]:
        """Each density that gets a panel, and what is kept there by each variant that was read."""
        for density in group.few:
            named = ((v, group.named(v, density)) for v in group.variants)
            names = {variant: network.name for variant, network in named if network is not None}
            there = {v: self.networks[name] for v, name in names.items() if name in self.networks}
            if there:
                yield density, there


def read_masks(group: Group) -> Masks:
    """The masks of a group's pruned networks, held against the dense network's weights."""
    run = next((run for run in group.runs if _model(run, "dense") is not None), None)
    if run is None:
        return Masks(None, {}, "the model files are not there")
    try:
        magnitudes = _magnitudes(read_model(_there(run, "dense")))
        found = {
            network.name: _kept(network.name, read_model(path), magnitudes)
            for network in run.results.networks
            if network.variant != "dense" and (path := _model(run, network.name)) is not None
        }
    except UsageError as error:
        return Masks(run.results.seed, {}, str(error))
    problem = "" if found else "it has no pruned network whose model file is there"
    return Masks(run.results.seed, found, problem)


def _model(run: Run, network: str) -> Path | None:
    return run.file(network, "model.safetensors")


def _there(run: Run, network: str) -> Path:
    path = _model(run, network)
    assert path is not None
    return path


def _magnitudes(dense: SavedModel) -> dict[str, Array]:
    """Each weight's magnitude over its layer's largest, by parameter; 0 in an all-zero layer."""
    found = {}
    for name, parameter in dense.model.named_parameters():
        magnitude = parameter.detach().abs().float().numpy()
        found[name] = magnitude / max(float(magnitude.max(initial=0)), 1e-30)
    return found


def _kept(network: str, saved: SavedModel, magnitudes: dict[str, Array]) -> Kept:
    """Raises `UsageError` if the masks are not those of the dense network."""
    kept, pruned = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for name, mask in saved.masks.items():
        if name not in magnitudes or magnitudes[name].shape != tuple(mask.shape):
            raise UsageError(f"the masks of '{network}' do not fit the dense network")
        chosen = mask.numpy()
        kept.append(magnitudes[name][chosen])
        pruned.append(magnitudes[name][~chosen])
    weights = np.concatenate(kept)
    return Kept(
        network,
        kept_weights(saved),
        np.histogram(weights, EDGES)[0],
        np.histogram(np.concatenate(pruned), EDGES)[0],
        float(np.median(weights)) if len(weights) else 0.0,
    )
