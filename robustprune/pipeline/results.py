"""``results.json``: what a run found, in one file that other programs can read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from robustprune import __version__

VERSION = 1
_LIBRARIES = ("torch", "torchvision", "timm", "torchattacks", "accelerate", "numpy")


@dataclass(frozen=True)
class RunResult:
    """What `run` returns.

    Attributes:
        folder: the run folder.
        results: the content of its ``results.json``.
    """

    folder: Path
    results: dict[str, Any]

    @property
    def networks(self) -> list[dict[str, Any]]:
        """One entry a network, the dense one first."""
        networks: list[dict[str, Any]] = self.results["networks"]
        return networks

    def network(self, name: str) -> dict[str, Any]:
        """The entry of one network, e.g. ``hydra-0.01``."""
        return next(entry for entry in self.networks if entry["name"] == name)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows for people: what was kept, and each accuracy in percent."""
        metrics = accuracies(self.networks)
        columns = ["network", "density", "kept", "turnover", *(f"{name} %" for name in metrics)]
        return columns, [_row(entry, metrics) for entry in self.networks]


def accuracies(networks: list[dict[str, Any]]) -> list[str]:
    """The metrics that have a number of images beside them, in the order they were measured."""
    names = [name for entry in networks for name in entry["metrics"]]
    return [name for name in dict.fromkeys(names) if f"{name}_n" in names]


def environment(device: torch.device) -> dict[str, Any]:
    """What bits depend on: versions, device and threads."""
    versions = {name: _version(name) for name in _LIBRARIES}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        **{name: version for name, version in versions.items() if version},
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def document(
    *, recipe: dict[str, Any], networks: list[dict[str, Any]], environment: dict[str, Any]
) -> dict[str, Any]:
    """The content of ``results.json``.

    Args:
        recipe: the resolved recipe.
        networks: an entry each, as in README.
        environment: see `environment`.
    """
    return {
        "version": VERSION,
        "robustprune": __version__,
        "recipe": recipe["name"],
        "seed": recipe["seed"],
        "environment": environment,
        "networks": networks,
        "params": recipe,
    }


def _row(entry: dict[str, Any], metrics: list[str]) -> list[str]:
    turnover = entry["turnover"]
    cells = [
        entry["name"],
        f"{entry['density']:g}",
        f"{entry['kept']:,}",
        "–" if turnover is None else f"{100 * turnover:.1f} %",
    ]
    return cells + [_percent(entry["metrics"], name) for name in metrics]


def _percent(metrics: dict[str, Any], name: str) -> str:
    if name not in metrics:
        return "–"
    low, high = metrics[f"{name}_interval"]
    value = metrics[name]
    return f"{100 * value:.1f} ± {50 * (high - low):.1f}"


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
