"""Pruners at work on tiny networks, their hooks called by hand."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustprune import objectives, pruners
from robustprune.masking import MaskedModel, attach, select
from robustprune.pruners import Context, Method, Pruner, Stage
from robustprune.recipe import StageOptions
from robustprune.training import optimizers, schedules
from robustprune.types import Images, Progress


def network() -> nn.Sequential:
    """Layers of 72 and 180 weights, of unlike scale."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))
    nn.init.uniform_(model[3].weight, -10, 10)
    return model


def linear(*rows: list[float]) -> nn.Sequential:
    """One linear layer with these weights, without a bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(rows[0]), len(rows), bias=False))
    model[1].weight.data = torch.tensor(rows)
    return model


def sections() -> dict[str, StageOptions]:
    """The stages of a recipe, as long as their names suggest."""
    usual = {
        "batch_size": 4,
        "optimizer": optimizers.create("sgd", lr=0.1),
        "schedule": schedules.create("cosine"),
    }
    lengths = {"pretrain": 5, "prune": 2, "finetune": 3}
    return {name: StageOptions(epochs=count, **usual) for name, count in lengths.items()}


def batches(size, per_class=None):
    images = torch.rand(10, 2, 5, 5, generator=torch.Generator().manual_seed(2))
    for part in torch.arange(10).split(size):
        yield Images(images[part], part % 5)


def context(pruner: Pruner, density: float = 0.1, *, seed: int = 0, **given: Any) -> Context:
    """What `pruner` may ask for, at hand."""
    state, others = network().state_dict(), attach(network(), structure=pruner.structure)
    weights = {name: weight.abs() for name, weight in others.weights.items()}
    masks = select(weights, density, allocation=pruner.allocation, structure=pruner.structure)
    checkpoints = {n: masks if n.startswith("mask:") else state for n in pruner.needs()}
    usual = {
        "objective": objectives.create("benign"),
        "generator": torch.Generator().manual_seed(seed),
        "batches": batches,
        "checkpoints": checkpoints,
    }
    return Context(density, **(usual | given))


def begun(
    pruner: Pruner, density: float = 0.1, *, seed: int = 0, model: nn.Module | None = None
) -> tuple[MaskedModel, Method, list[Stage]]:
    """A network after each of its stages has begun and nothing was trained."""
    model = network() if model is None else model
    masked = attach(model, exclude=pruner.exclude, structure=pruner.structure)
    method = pruner.method(context(pruner, density, seed=seed))
    stages = pruner.stages(density, sections())
    for stage in stages:
        method.prepare(stage, masked)
        method.begin(stage, masked)
    return masked, method, stages


def at_work(
    name: str,
    model: nn.Module,
    density: float,
    *,
    images: Images | None = None,
    checkpoints: Mapping[str, Mapping[str, Tensor]] | None = None,
    objective: str = "benign",
    **options: Any,
) -> tuple[Method, MaskedModel, list[Stage]]:
    """A fresh method of a registered pruner, its masked network, and its stages."""
    pruner = pruners.create(name, **options)
    given = context(
        pruner,
        density,
        objective=objectives.create(objective),
        batches=lambda size, per_class=None: iter([images]),
        checkpoints=checkpoints or {},
    )
    masked = attach(model, structure=pruner.structure)
    return pruner.method(given), masked, pruner.stages(density, sections())


def progress(step: int, *, epoch: int = 0, total: int = 100) -> Progress:
    return Progress(epoch=epoch, step=step, fraction=step / total, epochs=4, stage="train")
