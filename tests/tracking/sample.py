"""A run with two networks: as a run folder, and as a pipeline tracks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustprune.tracking import (
    NullTracker,
    Tracker,
    describe_network,
    describe_run,
    final_metrics,
    phase_metrics,
)

RESULTS: dict[str, Any] = {
    "version": 1,
    "robustprune": "0.1.0",
    "recipe": "tiny",
    "seed": 0,
    "environment": {"threads": 2},
    "max_steps": 7,
    "params": {
        "data": {"name": "digits"},
        "model": {"name": "cnn_small"},
        "objective": {"name": "pgd", "eps": 0.03},
        "prune": {"densities": [0.1]},
        "tracking": {"experiment": "tests"},
    },
    "networks": [
        {
            "name": "dense",
            "density": 1.0,
            "model": "dense/m.safetensors",
            "metrics": {"clean": 0.5},
        },
        {
            "name": "hydra-0.1",
            "pruner": "hydra",
            "density": 0.1,
            "turnover": 0.2,
            "model": "hydra-0.1/m.safetensors",
            "metrics": {"clean": 0.4, "clean_interval": [0.3, 0.5]},
        },
    ],
}
PHASES = {"dense": ["pretrain"], "hydra-0.1": ["prune", "finetune"]}


def history(network: str) -> list[dict[str, Any]]:
    return [
        {"phase": phase, "epoch": epoch, "metrics": {"loss": 2.0 - epoch, "accuracy": 0.1 * epoch}}
        for phase in PHASES[network]
        for epoch in range(3)
    ]


def write_folder(folder: Path) -> Path:
    for entry in RESULTS["networks"]:
        (folder / entry["name"]).mkdir(parents=True)
        (folder / entry["model"]).write_bytes(b"weights")
        (folder / entry["name"] / "history.json").write_text(json.dumps(history(entry["name"])))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "recipe.yaml").write_text("name: tiny\n")
    return folder


def track(tracker: Tracker | NullTracker, folder: Path) -> None:
    """What a pipeline does, start to end."""
    params, tags = describe_run(RESULTS)
    tracker.start("tiny", params=params, tags=tags)
    for entry in RESULTS["networks"]:
        name = entry["name"]
        params, tags = describe_network(entry, RESULTS)
        tracker.network(name, params=params, tags=tags)
        for line in history(name):
            tracker.metrics(name, phase_metrics(line["phase"], line["metrics"]), step=line["epoch"])
        tracker.metrics(name, final_metrics(entry))
        tracker.artifact(name, folder / entry["model"])
        tracker.finish(name, "FINISHED")
    tracker.artifact(None, folder / "recipe.yaml")
    tracker.artifact(None, folder / "results.json")
    tracker.finish(None, "FINISHED")
