"""Pruners at work on tiny networks, their hooks called by hand."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustprune import objectives, pruners
from robustprune.masking import MaskedModel, attach
from robustprune.pruners import Method, Stage
from robustprune.testing.pruners import begun, context, network, sections
from robustprune.types import Images, Progress

__all__ = ["at_work", "begun", "context", "linear", "network", "progress", "sections"]


def linear(*rows: list[float]) -> nn.Sequential:
    """One linear layer with these weights, without a bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(rows[0]), len(rows), bias=False))
    model[1].weight.data = torch.tensor(rows)
    return model


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
