"""Run folders made by hand, in which every number is known, without any training."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from robustprune.artifacts.saved import save_model
from robustprune.models import create_model
from robustprune.report.groups import Group, grouped
from robustprune.report.runs import read_run
from tests import masks

from ..pipeline import tiny

EVALUATE: list[dict[str, Any]] = [
    {"name": "clean", "samples": 10},
    {"name": "pgd", "label": "pgd", "eps": 0.1, "steps": 2, "samples": 8},
    {"name": "pgd", "label": "pgd_0.2", "eps": 0.2, "steps": 2, "samples": 8},
    {"name": "smoothing", "samples": 4, "radius": 0.25, "n": 10},
]
RADII = [0.0, 0.2, 0.3, 0.6]
"""What smoothing certified of every network's images."""
ARCHITECTURE = {"name": "cnn_digits", "num_classes": 10, "in_chans": 1, "image_size": 8}


class Net(NamedTuple):
    """A network: how many of its images each evaluator found right."""

    name: str
    density: float
    clean: int
    pgd: int
    pgd_02: int


NETS = (
    Net("dense", 1.0, 9, 6, 4),
    Net("hydra-0.1", 0.1, 8, 5, 3),
    Net("hydra-0.01", 0.01, 7, 4, 2),
    Net("magnitude-0.1", 0.1, 8, 5, 2),
    Net("magnitude-0.01", 0.01, 5, 2, 1),
)
Change = Callable[[dict[str, Any]], None]


def results(seed: int = 0, *, more: float = 0.0, change: Change | None = None) -> dict[str, Any]:
    """``results.json`` of the nets, ``more`` added to each accuracy, changed."""
    recipe = tiny.recipe({"evaluate": EVALUATE, "seed": seed}).document()
    document = {
        "version": 1,
        "recipe": recipe["name"],
        "seed": seed,
        "environment": {"torch": "2.0", "device": "cpu"},
        "networks": [_entry(net, more) for net in NETS],
        "params": json.loads(json.dumps(recipe)),
    }
    document = copy.deepcopy(document)
    if change is not None:
        change(document)
    return document


def folder(
    path: Path,
    seed: int = 0,
    *,
    more: float = 0.0,
    files: bool = True,
    change: Change | None = None,
) -> Path:
    """A finished run in ``path``: with networks' files, or with ``results.json`` only."""
    path.mkdir(parents=True)
    document = results(seed, more=more, change=change)
    (path / "results.json").write_text(json.dumps(document), encoding="utf-8")
    for net in NETS if files else ():
        (path / net.name).mkdir()
        _images(path / net.name / "images.parquet", net)
        _history(path / net.name / "history.json", net)
    if files:
        _models(path)
    return path


def group(*paths: Path) -> Group:
    (found,) = grouped([read_run(path) for path in paths])
    return found


def _entry(net: Net, more: float) -> dict[str, Any]:
    counts = {"clean": (net.clean, 10), "pgd": (net.pgd, 8), "pgd_0.2": (net.pgd_02, 8)}
    counts["smoothing"] = (2, 4)
    metrics: dict[str, Any] = {}
    for name, (right, n) in counts.items():
        value = right / n + more
        metrics |= {name: value, f"{name}_n": n, f"{name}_interval": [value - 0.1, value + 0.05]}
    pruner = None if net.name == "dense" else net.name.partition("-")[0]
    turnover = None if pruner is None else 0.25
    kept = round(29472 * net.density)
    facts: dict[str, Any] = {"kept": kept, "prunable": 29472, "turnover": turnover}
    facts["measures"] = {"size": {"bytes_packed": 4 * kept}, "flops": {"macs_sparse": 12 * kept}}
    return {"name": net.name, "pruner": pruner, "density": net.density, "metrics": metrics} | facts


def _images(path: Path, net: Net) -> None:
    """The rightly classified images come first, but for clean, which errs on the first."""
    columns = {
        "clean": [False] * (10 - net.clean) + [True] * net.clean,
        "pgd": [i < net.pgd for i in range(8)] + [None] * 2,
        "pgd_0.2": [i < net.pgd_02 for i in range(8)] + [None] * 2,
        "smoothing_radius": [*RADII, *[None] * 6],
    }
    pq.write_table(pa.table({"index": range(10), "label": [0] * 10, **columns}), path)


def _history(path: Path, net: Net) -> None:
    stages = ["pretrain"] if net.name == "dense" else ["prune", "finetune"]
    entries = [
        {"stage": stage, "epoch": epoch, "metrics": {"loss": 3 / epoch, "accuracy": epoch / 4}}
        for stage in stages
        for epoch in (1, 2)
    ]
    path.write_text(json.dumps(entries), encoding="utf-8")


def _models(path: Path) -> None:
    """HYDRA's masks keep the smallest weights, magnitude's the largest."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = create_model(**ARCHITECTURE)
    _save(path, "dense", dense, {})
    scores: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "hydra": lambda weight: 1 / weight.abs().clamp_min(1e-12),
        "magnitude": torch.abs,
    }
    for net in NETS[1:]:
        model = copy.deepcopy(dense)
        score = scores[net.name.partition("-")[0]]
        masked = masks.learning(model, net.density)
        masked.add_scores({name: score(w.detach()) for name, w in masked.weights.items()})
        masks.renew(masked, net.density)
        _save(path, net.name, model, masked.bake())


def _save(path: Path, name: str, model: torch.nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    file = path / name / "model.safetensors"
    save_model(file, model, masks=masks, metadata={"model": ARCHITECTURE, "network": name})
