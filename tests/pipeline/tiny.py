"""The smallest recipe that does everything, and shortcuts to run it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from robustprune.components import build
from robustprune.pipeline import RunResult, run
from robustprune.recipe import Recipe
from robustprune.tracking import Console

Document = dict[str, Any]

RECIPE: Document = {
    "name": "tiny",
    "seed": 0,
    "data": {"name": "digits", "subset": 128},
    "model": {"name": "cnn_digits"},
    "objective": {"name": "pgd", "eps": 0.1, "steps": 2},
    "pretrain": {"epochs": 2, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.1}},
    "prune": {
        "methods": ["hydra", "magnitude"],
        "densities": [0.1, 0.01],
        "epochs": 2,
        "batch_size": 64,
        "optimizer": {"name": "sgd", "lr": 10},
    },
    "finetune": {"epochs": 2, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.05}},
    "evaluate": [
        {"name": "clean", "samples": 100},
        {
            "name": "pgd",
            "label": "pgd",
            "eps": 0.1,
            "steps": 3,
            "restarts": 2,
            "samples": 64,
            "batch_size": 40,
        },
    ],
    "tracking": {"enabled": False},
    "compute": {"device": "cpu", "threads": 1},
}
NETWORKS = ["dense", "hydra-0.1", "hydra-0.01", "magnitude-0.1", "magnitude-0.01"]
AUTOATTACK: Document = {"name": "autoattack", "eps": 0.6, "steps": 2, "samples": 32}
SMALL: Document = {"prune": {"methods": ["hydra"], "densities": [0.1]}, "evaluate": []}
"""Changes that leave the dense network and one pruned one, not judged."""


def document(*changes: Mapping[str, Any]) -> Document:
    """The tiny recipe with ``changes`` merged in, one after the other; None drops a key."""
    result = copy.deepcopy(RECIPE)
    for change in changes:
        _merge(result, change)
    return result


def recipe(*changes: Mapping[str, Any]) -> Recipe:
    return build(Recipe, document(*changes))


def write(folder: Path, *changes: Mapping[str, Any], name: str = "tiny.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document(*changes)))
    return path


def go(folder: Path, *changes: Mapping[str, Any], **options: Any) -> RunResult:
    """Run the tiny recipe, changed, in ``folder``."""
    options.setdefault("console", Console(quiet=True))
    options.setdefault("fresh", True)  # runs of one folder are compared: each does its own work
    return run(recipe(*changes), out=folder, runs=folder.parent, **options)


def models(folder: Path) -> dict[str, bytes]:
    """Every network's file, by the network's name."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/model.safetensors")}


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def _merge(into: Document, change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
