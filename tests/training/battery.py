"""Trainings in one process or in several, to be compared.

``python -m tests.training.battery FOLDER`` trains each case in each process of a job; the main one
writes what it ends with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune import objectives
from robustprune.objectives import Loss, Objective
from robustprune.pipeline.compute import Compute
from robustprune.recipe import ComputeOptions
from robustprune.shard import Shard
from robustprune.tracking import Console
from robustprune.training.agreement import check_same
from robustprune.training.loop import Trainer
from robustprune.types import Progress
from tests.training import toys

Case = Callable[["Setting"], dict[str, Any]]


class Setting:
    """What a case has: this process, and a folder for its states."""

    def __init__(self, compute: Compute, folder: Path) -> None:
        self.compute, self.shard, self.folder = compute, compute.shard, folder

    def trainer(self, objective: Objective, **options: Any) -> Trainer:
        return Trainer(
            accelerator=self.compute.accelerator,
            shard=self.shard,
            objective=objective,
            data=toys.splits(),
            seed=5,
            console=Console(quiet=True),
            **options,
        )

    def trained(
        self, name: str, kind: str, objective: Objective, *, local: bool = False, **options: Any
    ) -> dict[str, Any]:
        model, phase = toys.prepared(kind, batch_size=7, **options)
        trainer = self.trainer(objective, synchronise=not local)
        history = trainer.run(phase, model, self.folder / f"{name}.pt")
        check_same(model, self.shard, when="at the end")
        return {"history": history, "weights": toys.weights(model)}


class Foreign(toys.Noisy):
    """Draws as much as it has images, in a way that nobody can know of."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        torch.rand(images.numel() + 1)
        return super().__call__(model, images, labels, progress)


class Careless(toys.Noisy):
    """Leaves the last layer's bias out, in every other step."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        bias = model[5].bias
        logits = model(images) - (bias - bias.detach())
        if progress.step % 2:
            hidden = model[:5](images)
            logits = hidden @ model[5].weight.T + bias.detach()
        return Loss(nn.functional.cross_entropy(logits, labels), logits, {})


def trainings() -> dict[str, Case]:
    mixtrain = objectives.create("mixtrain", eps=0.1, samples=3, ramp={"epochs": 0})
    flat = {"optimizer": toys.optimizers.create("sgd", lr=0.02)}
    cases: dict[str, Case] = {}

    def add(name: str, kind: str, objective: Objective, **options: Any) -> None:
        cases[name] = lambda setting: setting.trained(name, kind, objective, **options)

    for kind in toys.KINDS:
        add(f"noisy {kind}", kind, toys.Noisy())
    add("free", "pretrain", toys.FREE, **flat)
    add("mixtrain", "pretrain", mixtrain, **flat)
    add("in parts", "pretrain", toys.Noisy(), accumulate=2)
    add("unused", "pretrain", Careless())
    add("best", "prune", toys.Noisy(), select="best")
    add("local", "pretrain", toys.Noisy(), local=True)
    return cases


def normalised(shard: Shard) -> dict[str, Any]:
    """A BatchNorm's outputs, gradients and statistics for five images, 3 of them in process 0."""
    from robustprune.rows import Rows
    from robustprune.training.whole import WholeBatch

    generator = torch.Generator().manual_seed(4)
    images = 100 + torch.randn(5, 3, 2, 2, generator=generator)
    wanted = torch.randn(5, 3, 2, 2, generator=generator)
    layer = nn.BatchNorm2d(3)
    rows = Rows(5, shard.rank, shard.world)
    x = images[rows.place].clone().requires_grad_()
    with WholeBatch(x.shape, rows, synchronise=shard.world > 1, foreign=set()):
        y = layer(x)
    (y * wanted[rows.place]).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    parts = shard.gather((y.detach(), x.grad, layer.weight.grad))
    whole_y, whole_grad = torch.zeros_like(images), torch.zeros_like(images)
    for rank, (its_y, its_grad, _) in enumerate(parts):
        whole_y[rank :: shard.world], whole_grad[rank :: shard.world] = its_y, its_grad
    return {
        "output": whole_y,
        "gradient": whole_grad,
        "weight": sum(part[2] for part in parts),
        "mean": layer.running_mean,
        "variance": layer.running_var,
    }


def everything(folder: Path) -> dict[str, Any]:
    with Compute(ComputeOptions(device="cpu", threads=1)) as compute:
        setting = Setting(compute, folder)
        found: dict[str, Any] = {name: case(setting) for name, case in trainings().items()}
        found["normalised"] = normalised(compute.shard)
        found["draws"] = foreign(setting)
    return found


def foreign(setting: Setting) -> bool:
    """Whether it is told that processes have drawn differently."""
    said: list[str] = []
    trainer = setting.trainer(Foreign())
    trainer.console.warn = said.append  # type: ignore[method-assign]
    model, phase = toys.prepared("pretrain", batch_size=7, epochs=1)
    trainer.run(phase, model, setting.folder / "foreign.pt")
    return any("depends on the number of processes" in text for text in said)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = everything(folder)
    import os

    if os.environ["RANK"] == "0":
        torch.save(found, folder / "found.pt")
