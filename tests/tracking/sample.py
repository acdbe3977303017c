"""A run with two networks: as a run folder, and as a pipeline tracks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustprune.tracking import Tracker, stage_metrics

RESULTS: dict[str, Any] = {
    "version": 1,
    "robustprune": "0.1.0",
    "recipe": "tiny",
    "seed": 0,
    "environment": {"threads": 2},
    "max_steps": 7,
    "datasets": [
        {"name": "digits", "context": context, "digest": digest, "images": images}
        | {"shape": [1, 8, 8], "classes": 10}
        for context, digest, images in (("training", "a" * 16, 1437), ("test", "b" * 16, 360))
    ],
    "params": {
        "data": {"name": "digits"},
        "model": {"name": "cnn_small"},
        "objective": {"name": "pgd", "eps": 0.03},
        "prune": {"methods": [{"name": "hydra", "label": None}], "densities": [0.1]},
        "evaluate": [{"name": "clean"}, {"name": "pgd", "label": "weak", "eps": 0.01}],
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
            "metrics": {"clean": 0.4, "clean_n": 96, "clean_interval": [0.3, 0.5], "weak": 0.25},
        },
    ],
}
PHASES = {"dense": ["pretrain"], "hydra-0.1": ["prune", "finetune"]}


def history(network: str) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "epoch": epoch, "metrics": {"loss": 2.0 - epoch, "accuracy": 0.1 * epoch}}
        for stage in PHASES.get(network, ["finetune"])
        for epoch in range(3)
    ]


def write_folder(folder: Path, results: dict[str, Any] = RESULTS) -> Path:
    for entry in results["networks"]:
        (folder / entry["name"]).mkdir(parents=True)
        (folder / entry["model"]).write_bytes(b"weights")
        (folder / entry["name"] / "history.json").write_text(json.dumps(history(entry["name"])))
        (folder / entry["name"] / "images.parquet").write_bytes(b"images")
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "recipe.yaml").write_text("name: tiny\n")
    (folder / "imports").mkdir()
    (folder / "imports" / "mine.py").write_text("# code\n")
    return folder


def track(tracker: Tracker) -> None:
    """What a pipeline does, start to end."""
    tracker.start(RESULTS)
    for entry in RESULTS["networks"]:
        tracker.network(entry, RESULTS)
        for line in history(entry["name"]):
            values = stage_metrics(line["stage"], line["metrics"])
            tracker.metrics(entry["name"], values, step=line["epoch"])
        tracker.complete(entry)
    tracker.finish("FINISHED")
