"""``results.json``: the numbers of a run, in one file that other programs can read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from robustprune import measures
from robustprune.datasets import Splits
from robustprune.errors import UsageError, nearest
from robustprune.evaluators.accuracy import measured
from robustprune.messages import left_dense
from robustprune.report.runs import Results, Run

VERSION = 1
_LIBRARIES = ("torch", "torchvision", "timm", "torchattacks", "accelerate", "numpy", "llvmlite")


@dataclass(frozen=True)
class RunResult:
    """The result of `run`.

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
        """One entry per network, the dense one first."""
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
        """The soundness alarms of each network that has any; see `robustprune.pipeline.sanity`.

        A run with alarms is not returned by `run`, which raises `SoundnessError`, but can be read.
        """
        return {entry["name"]: entry["alarms"] for entry in self.networks if "alarms" in entry}

    @property
    def left_dense(self) -> list[str]:
        """The prunable layers without a mask in pruned networks, in lines for people."""
        return left_dense({e["name"]: e.get("left_dense", []) for e in self.networks})

    @property
    def title(self) -> str:
        """The recipe and the seed, and what speaks against taking it for a whole, sound run."""
        results = self.results
        text = f"{results['recipe']}, seed {results['seed']}"
        if "max_steps" in results:
            text += f", cut at {results['max_steps']} steps a stage"
        if not Run(self.folder, Results.model_validate(results)).finished:
            text += ", unfinished"
        return text + (", SOUNDNESS ALARM" if self.alarms else "")

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows for people: what was kept, and each accuracy in percent."""
        metrics = measured([entry["metrics"] for entry in self.networks])
        heads = [f"{name} %" if fraction else name for name, fraction in metrics.items()]
        rows = []
        for entry in self.networks:
            turnover, dead = entry["turnover"], " (dead)" if "dead" in entry else ""
            share = "–" if turnover is None else f"{100 * turnover:.1f} %"
            values = {name: metric_text(entry["metrics"], name) for name in metrics}
            cells = [f"{text}{dead}" if metrics[name] else text for name, text in values.items()]
            rows.append(
                [entry["name"], f"{entry['density']:g}", f"{entry['kept']:,}", share, *cells]
            )
        return ["network", "density", "kept", "turnover", *heads], rows

    def measures(self) -> tuple[str, list[str], list[list[str]]]:
        """Title, columns and rows for people: the measures of each network; no rows without any."""
        return measures.table({e["name"]: e["measures"] for e in self.networks if "measures" in e})

    @property
    def legend(self) -> str:
        """The meaning of the numbers that are in the table."""
        metrics = measured([entry["metrics"] for entry in self.networks])
        turnover = any(entry["turnover"] is not None for entry in self.networks)
        words = {
            "accuracies in percent, ± half of a 95 % interval": any(metrics.values()),
            "turnover: kept but not at first": turnover,
            "dead: one answer for all images": any("dead" in entry for entry in self.networks),
        }
        return "; ".join(word for word, there in words.items() if there)


def metric_text(metrics: Mapping[str, Any], name: str) -> str:
    """A metric for people: an accuracy in percent ± half of its interval, or a number."""
    if name not in metrics:
        return "–"
    if f"{name}_interval" not in metrics:
        return f"{metrics[name]:.4g}"
    low, high = metrics[f"{name}_interval"]
    return f"{100 * metrics[name]:.1f} ± {50 * (high - low):.1f}"


def installed_versions(*libraries: str) -> dict[str, str]:
    """The versions of those libraries that are installed."""
    versions = {}
    for name in libraries:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def environment(device: torch.device, *, processes: int = 1) -> dict[str, Any]:
    """Everything that bits depend on: versions, device, processes and the threads of each."""
    return {
        **installed_versions(*_LIBRARIES),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def datasets(name: str, data: Splits) -> list[dict[str, Any]]:
    """The images that were trained on and judged by: an entry for each split of the dataset."""
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
