"""``results.json``: what a run found, in one file that other programs can read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustprune import __version__
from robustprune.errors import UsageError, nearest
from robustprune.evaluators.accuracy import measured
from robustprune.report.documents import Results
from robustprune.report.runs import Run
from robustprune.sentences import left_dense

if TYPE_CHECKING:
    from robustprune.datasets import Splits

VERSION = 1
_LIBRARIES = ("torch", "torchvision", "timm", "torchattacks", "accelerate", "numpy")


@dataclass(frozen=True)
class RunResult:
    """What `run` returns.

    Attributes:
        folder: the run folder.
        results: the content of its ``results.json``.
        page: the report that was drawn of it; None if there is none.
        tracked: where MLflow has it, or why it has not, as a line for people.
    """

    folder: Path
    results: dict[str, Any]
    page: Path | None = None
    tracked: str = ""

    @property
    def networks(self) -> list[dict[str, Any]]:
        """One entry a network, the dense one first."""
        networks: list[dict[str, Any]] = self.results["networks"]
        return networks

    def network(self, name: str) -> dict[str, Any]:
        """The entry of one network, e.g. ``hydra-0.01``.

        Raises:
            UsageError: the run has no such network (yet).
        """
        entries = {entry["name"]: entry for entry in self.networks}
        if name not in entries:
            raise UsageError(f"the run has no network '{name}'.{nearest(name, entries)}")
        return entries[name]

    @property
    def alarms(self) -> dict[str, list[dict[str, Any]]]:
        """The soundness alarms of each network that has any; see `robustprune.pipeline.soundness`.

        A run with alarms is not returned by `run`, which raises `SoundnessError`, but can be read.
        """
        return {entry["name"]: entry["alarms"] for entry in self.networks if "alarms" in entry}

    @property
    def left_dense(self) -> list[str]:
        """The prunable layers without a mask in pruned networks, in lines for people."""
        return left_dense({e["name"]: e.get("left_dense", []) for e in self.networks})

    @property
    def title(self) -> str:
        """The recipe, the seed, whether this is less than a whole run, and whether it is sound."""
        results = self.results
        cut = f", cut at {results['max_steps']} steps a stage" if "max_steps" in results else ""
        run = Run(self.folder, Results.model_validate(results), {})
        state = "" if run.finished else ", unfinished"
        state += ", SOUNDNESS ALARM" if self.alarms else ""
        return f"{results['recipe']}, seed {results['seed']}{cut}{state}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows for people: what was kept, and each accuracy in percent."""
        metrics = measured([entry["metrics"] for entry in self.networks])
        heads = [f"{name} %" if fraction else name for name, fraction in metrics.items()]
        columns = ["network", "density", "kept", "turnover", *heads]
        return columns, [_row(entry, metrics) for entry in self.networks]

    @property
    def legend(self) -> str:
        """What the numbers in the table are, of those that are there."""
        metrics = measured([entry["metrics"] for entry in self.networks])
        turnover = any(entry["turnover"] is not None for entry in self.networks)
        words = {
            "accuracies in percent, ± half of a 95 % interval": any(metrics.values()),
            "turnover: kept but not at first": turnover,
            "dead: one answer for all images": any("dead" in entry for entry in self.networks),
        }
        return "; ".join(word for word, there in words.items() if there)


def shown(metrics: Mapping[str, Any], name: str) -> str:
    """A metric for people: an accuracy in percent ± half of its interval, or a number."""
    if name not in metrics:
        return "–"
    if f"{name}_interval" not in metrics:
        return f"{metrics[name]:.4g}"
    low, high = metrics[f"{name}_interval"]
    return f"{100 * metrics[name]:.1f} ± {50 * (high - low):.1f}"


def environment(device: torch.device, *, processes: int = 1) -> dict[str, Any]:
    """What bits depend on: versions, device, processes and the threads of each."""
    versions = {name: _version(name) for name in _LIBRARIES}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        **{name: version for name, version in versions.items() if version},
        "device": name,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def datasets(name: str, data: Splits) -> list[dict[str, Any]]:
    """What images were trained on and judged by: an entry for each split that there is.

    Args:
        name: the dataset's registered name.
        data: its splits.
    """
    splits = {"training": data.train, "validation": data.validation, "test": data.test}
    return [
        {
            "name": name,
            "context": context,
            "images": len(split),
            "shape": [data.channels, data.image_size, data.image_size],
            "classes": data.num_classes,
            "digest": split.digest(),
        }
        for context, split in splits.items()
        if split is not None
    ]


def document(
    *,
    recipe: dict[str, Any],
    networks: list[dict[str, Any]],
    environment: dict[str, Any],
    datasets: Sequence[dict[str, Any]],
    max_steps: int | None = None,
) -> dict[str, Any]:
    """The content of ``results.json``.

    Args:
        recipe: the resolved recipe.
        networks: an entry each, as in README.
        environment: see `environment`.
        datasets: see `datasets`.
        max_steps: set if stages were cut, so that nobody takes the run for a whole one.
    """
    cut = {} if max_steps is None else {"max_steps": max_steps}
    return {
        "version": VERSION,
        "robustprune": __version__,
        "recipe": recipe["name"],
        "seed": recipe["seed"],
        **cut,
        "environment": environment,
        "datasets": datasets,
        "networks": networks,
        "params": recipe,
    }


def _row(entry: dict[str, Any], metrics: Mapping[str, bool]) -> list[str]:
    turnover = entry["turnover"]
    cells = [
        entry["name"],
        f"{entry['density']:g}",
        f"{entry['kept']:,}",
        "–" if turnover is None else f"{100 * turnover:.1f} %",
    ]
    dead = " (dead)" if "dead" in entry else ""
    values = {name: shown(entry["metrics"], name) for name in metrics}
    return cells + [f"{v}{dead}" if metrics[name] else v for name, v in values.items()]


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
