"""A network, a data set and phases that train in milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import PrivateAttr
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune import objectives
from robustprune.datasets import Splits
from robustprune.datasets.source import Source, TensorSource
from robustprune.masking import MaskedModel, attach
from robustprune.objectives import Loss, Objective
from robustprune.tracking import Console
from robustprune.training import optimizers, schedules
from robustprune.training.loop import Trainer
from robustprune.training.optimizers import OptimizerPart
from robustprune.training.phase import Phase, norm_layers, norm_tensors, weight_tensors
from robustprune.types import Progress

EPOCHS, BATCH, IMAGES = 3, 4, 14  # batches of 4, 4, 4 and 2
STEPS = 4
KINDS = ("pretrain", "prune", "finetune")
BENIGN = objectives.create("benign")
FREE = objectives.create("free", eps=0.1, replays=2)


class Noisy(Objective):
    """Draws from the global generator, in training and in validation."""

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        logits = model(images + 0.1 * torch.randn_like(images))
        return Loss(F.cross_entropy(logits, labels), logits, {})


class Cursed(Objective):
    """Cross-entropy, whose value becomes something else from some step on."""

    at: int
    value: Any

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        logits = model(images)
        total = F.cross_entropy(logits, labels)
        if progress.step >= self.at:
            total = total * 0 + self.value
        return Loss(total, logits, {})


class Spy(OptimizerPart):
    """Plain SGD that notes the learning rate and the gradients of each step."""

    _rates: list[float] = PrivateAttr(default_factory=list)
    _grads: list[list[Tensor]] = PrivateAttr(default_factory=list)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(list(parameters), lr=self.lr)
        optimizer.register_step_pre_hook(self._note)
        return optimizer

    def _note(self, optimizer: Any, *_: Any) -> None:
        group = optimizer.param_groups[0]
        self._rates.append(group["lr"])
        self._grads.append([p.grad.clone() for p in group["params"]])


def network(*, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(0.2) if norm else nn.Identity(),
        nn.Flatten(),
        nn.Linear(6 * 16, 3),
    )


def images(count: int, seed: int) -> TensorSource:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 2, 4, 4, generator=generator)
    return TensorSource(pixels, torch.randint(3, (count,), generator=generator))


def splits(*, validation: bool = True, train: Source | None = None) -> Splits:
    return Splits(
        train=train or images(IMAGES, 1),
        validation=images(10, 2) if validation else None,
        test=None,
        num_classes=3,
        channels=2,
        image_size=4,
    )


def trainer(objective: Objective, data: Splits | None = None, **options: Any) -> Trainer:
    return Trainer(
        accelerator=Accelerator(cpu=True),
        objective=objective,
        data=data or splits(),
        seed=5,
        console=Console(quiet=True),
        **options,
    )


def dense_phase(model: nn.Module, **options: Any) -> Phase:
    return _phase("pretrain", trainable=list(model.parameters()), **options)


def prune_phase(masked: MaskedModel, *, norms: bool = True, **options: Any) -> Phase:
    return _phase(
        "prune",
        trainable=masked.score_parameters(),
        norms=norm_tensors(masked.model) if norms else (),
        frozen=() if norms else norm_layers(masked.model),
        materialised=masked.materialised,
        settle=masked.select,
        watch=lambda: {"turnover": masked.turnover},
        **options,
    )


def finetune_phase(masked: MaskedModel, **options: Any) -> Phase:
    return _phase(
        "finetune", trainable=weight_tensors(masked), materialised=masked.materialised, **options
    )


def _phase(name: Any, **options: Any) -> Phase:
    usual: dict[str, Any] = {
        "network": "toy",
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "optimizer": optimizers.create("sgd", lr=0.1),
        "schedule": schedules.create("cosine"),
    }
    return Phase(name=name, **(usual | options))


SCORES = {"0.parametrizations.weight.0.scores", "5.parametrizations.weight.0.scores"}
MASKS = {name.replace("scores", "mask") for name in SCORES}

Setting = tuple[nn.Module, Phase]


def prepared(kind: str, **options: Any) -> Setting:
    """A new network and the phase of this kind, the same ones each time."""
    model = network()
    if kind == "pretrain":
        return model, dense_phase(model, **options)
    masked = attach(model, density=0.3)
    build = prune_phase if kind == "prune" else finetune_phase
    return model, build(masked, **options)


class StoppedError(Exception):
    """What a test ends a run with."""


def stop_after(epochs: int) -> Callable[[Phase, list[dict[str, float]]], None]:
    def on_epoch(phase: Phase, history: list[dict[str, float]]) -> None:
        if len(history) == epochs:
            raise StoppedError

    return on_epoch


@contextmanager
def spied(target: type, method: str) -> Iterator[list[Any]]:
    """The first argument of every call of a method."""
    calls: list[Any] = []
    original = getattr(target, method)

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args[0] if args else None)
        return original(self, *args, **kwargs)

    setattr(target, method, spy)
    try:
        yield calls
    finally:
        setattr(target, method, original)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def state_file(folder: Path, name: str = "phase") -> Path:
    return folder / "state" / f"{name}.pt"
