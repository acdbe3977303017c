"""A method at work on a tiny network, its hooks called by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustprune import objectives, optimizers, pruners
from robustprune.masking import MaskedModel, attach
from robustprune.pruners import Context, Method, Stage
from robustprune.recipe import StageOptions
from robustprune.types import Images, Progress

SECTIONS = {
    name: StageOptions(epochs=epochs, optimizer=optimizers.create("sgd", lr=0.1))
    for name, epochs in (("pretrain", 4), ("prune", 2), ("finetune", 3))
}


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

    def batches(size: int, per_class: int | None = None) -> Iterator[Images]:
        assert images is not None
        yield images

    pruner = pruners.create(name, **options)
    context = Context(
        density=density,
        objective=objectives.create(objective),
        generator=torch.Generator().manual_seed(0),
        batches=batches,
        checkpoints=checkpoints or {},
    )
    return pruner.method(context), attach(model), pruner.stages(density, SECTIONS)


def progress(step: int, *, epoch: int = 0, total: int = 100) -> Progress:
    return Progress(epoch=epoch, step=step, fraction=step / total, epochs=4, stage="train")
