"""Trainings in one process or in several, to be compared.

``python -m tests.training.battery FOLDER`` trains each case in each process of a job; the main one
writes what it ends with.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune import objectives
from robustprune.errors import PeerError
from robustprune.objectives import Loss, Objective
from robustprune.pipeline.compute import Compute
from robustprune.recipe import ComputeOptions
from robustprune.tracking import Console
from robustprune.training.distributed import check_same
from robustprune.training.loop import Trainer
from robustprune.types import Progress
from tests.training import toys

SHARP = {"sharpness": {"radius": 0.3}}
PGD = objectives.create("pgd", eps=0.2, steps=2, random_start=False)
STEADY = {
    "pretrain": ("pretrain", PGD, {}),
    "prune": ("prune", PGD, {}),
    "finetune": ("finetune", PGD, {}),
    "dynamic": ("dynamic", PGD, {}),
    "S2AP": ("prune", PGD, {"pruner": SHARP}),
    "AWP in parts": ("finetune", PGD, {"pruner": SHARP, "accumulate": 2}),
    "in parts": ("prune", PGD, {"accumulate": 3}),
    "scaled": ("prune", PGD, {"scales": True}),
}
"""Without draws or BatchNorm: several processes have the gradients of one, to rounding."""


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


FAST = {"optimizer": toys.optimizers.create("sgd", lr=5.0)}
DRAWING = {
    "noisy pretrain": ("pretrain", toys.Noisy(), {}),
    "noisy prune": ("prune", toys.Noisy(), FAST),
    "noisy dynamic": ("dynamic", toys.Noisy(), {}),
    "free": ("pretrain", toys.FREE, {}),
    "best": ("prune", toys.Noisy(), {"select": "best"} | FAST),
    "unused": ("pretrain", Careless(), {}),
}
"""With draws, BatchNorm and dropout: all processes end with the same network."""


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
        self,
        name: str,
        kind: str,
        objective: Objective,
        options: dict[str, Any],
        *,
        norm: bool,
        stop: int | None = None,
    ) -> dict[str, Any]:
        spy = toys.Spy(lr=0.1)
        others = {k: v for k, v in options.items() if k != "scales"}
        usual = {"batch_size": 7, "optimizer": spy}
        model, setting = toys.prepared(kind, norm=norm, **(usual | others))
        trainer = self.trainer(objective, scales=options.get("scales", False))
        if stop is not None:
            trainer.on_epoch = toys.stop_after(stop)
        history = toys.train(trainer, setting, self.folder / f"{name}.pt")
        check_same(model, self.shard, when="at the end")
        return {
            "history": history,
            "weights": toys.weights(model),
            "gradients": spy._grads[0] if spy._grads else [],
            "masks": self.shard.gather(setting.masked.masks),
            "method": self.shard.gather(str(setting.method.state_dict())),
        }

    def resumed(self, name: str, kind: str, objective: Objective) -> dict[str, Any]:
        """As `trained`, stopped after the first epoch."""
        try:
            self.trained(name, kind, objective, {}, norm=True, stop=1)
        except (toys.StoppedError, PeerError):  # the main process tells the others
            pass
        else:
            raise AssertionError("not stopped")
        return self.trained(name, kind, objective, {}, norm=True)


def everything(folder: Path) -> dict[str, Any]:
    with Compute(ComputeOptions(device="cpu", threads=1)) as compute:
        setting = Setting(compute, folder)
        found: dict[str, Any] = {}
        for norm, cases in ((False, STEADY), (True, DRAWING)):
            for name, (kind, objective, options) in cases.items():
                found[name] = setting.trained(name, kind, objective, options, norm=norm)
        found["resumed"] = setting.resumed("resumed", "dynamic", toys.Noisy())
        found["liar"] = liar(setting)
    return found


class Liar(toys.RestlessMethod):
    """Draws from what differs between processes."""

    def _drawn(self, masked: Any) -> dict[str, Tensor]:
        return {name: torch.rand_like(weight) for name, weight in masked.weights.items()}


def liar(setting: Setting) -> list[str]:
    """What each process says of a method whose masks differ."""
    _, its = toys.prepared("dynamic", batch_size=7, epochs=2)
    its.method.__class__ = Liar
    said = ""
    try:
        toys.train(setting.trainer(PGD), its, setting.folder / "liar.pt")
    except (RuntimeError, PeerError) as error:
        said = f"{type(error).__name__}: {error}"
    return setting.shard.gather(said)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = everything(folder)
    if os.environ["RANK"] == "0":
        torch.save(found, folder / "found.pt")
    torch.distributed.barrier()  # one that is still at work would lose its connection
    torch.distributed.destroy_process_group()
    os._exit(0)  # as the command line does: threads of the process group may abort an interpreter
