"""Pruning as a constraint, met by the alternating direction method of multipliers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from robustprune.masking import MaskedModel
from robustprune.objectives import Objective
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress


@register("admm")
class Admm(Pruner):
    """Draw weights to a sparse set while the loss is minimised.

    ADMM alternates three updates of the augmented Lagrangian in its scaled form::

        W: SGD on L(W) + Σ ρ/2·‖W − Z + U‖²
        Z = Π(W + U),  the nearest tensors of the asked density
        U = U + W − Z

    with Z = Π(W) and U = 0 at first, Z and U updated every few epochs. Then the mask of the largest
    weights is set, and what is left is finetuned. ρ stays what it is; L is the recipe's objective,
    cross-entropy in the source, and `radmm` is the same with a growing ρ. Entries of a structure
    are projected by the sum of their |weights|, as they are masked.

    The source's code does it for AlexNet with 40 updates, one in 60,000 steps of 256 images (12
    epochs), and for LeNet-5 with 30, at ρ 0.0001, one in 5,000 steps of 50 images. It sets each
    layer's ratio by hand, and its thresholds are percentiles, so that ties may keep more.
    """

    still = ("finetune",)
    source = "Zhang et al. 2018, A systematic DNN weight pruning framework, arXiv 1804.03294"
    cost = "2 trainings of weights"

    rho: float = Field(1.5e-3, gt=0)
    """ρ: weight of the penalty at first; the source's of AlexNet. Short stages need more."""
    rho_growth: float = Field(1.0, ge=1)
    """Factor on ρ at each update."""
    rho_most: float | None = Field(None, gt=0)
    """ρ grows no further than that; absent, it grows at every update."""
    every: int = Field(12, ge=1)
    """Epochs from one update of Z and U to the next: a cycle."""
    cycle: bool = True
    """Let the learning rate of ``admm`` fall by ten at each third of a cycle, and reset it at the
    next, as `radmm` does (AlexNet's falls once, after a sixth); false, or a schedule in ``admm``:
    it goes by the section's schedule, or that one."""

    admm: StageChanges = StageChanges()
    """Changes to ``finetune`` for the constrained training."""
    finetune: StageChanges = StageChanges()
    """Changes to ``finetune`` for what is left."""

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """The constrained training and finetuning, both as ``finetune`` says."""
        options = self.section("finetune", recipe)
        cyclic = {"schedule": {"name": "cyclic", "epochs": self.every}} if self.cycle else {}
        admm = self.admm.over(StageChanges(**cyclic).over(options))
        return [Stage("admm", admm), Stage("finetune", self.finetune.over(options))]

    def problems(self, stage: Stage, objective: Objective) -> Iterator[str]:
        """A stage that is over before Z and U are updated."""
        yield from super().problems(stage, objective)
        epochs = None if stage.options is None else stage.options.epochs
        if stage.name == "admm" and epochs is not None and epochs < self.every:
            yield (
                f"Z and U are first updated after {self.every} epochs, and stage 'admm' has "
                f"{epochs}: set every to {max(epochs // 5, 1)}, or admm.epochs to more than "
                f"{self.every}"
            )

    def method(self, context: Context) -> Method:
        """A fresh method, which holds Z and U."""
        return AdmmMethod(self, context)


@register("radmm")
class Radmm(Admm):
    """ADMM with a penalty that grows, under the robust objective.

    As `admm`, but ρ is multiplied at each update of Z and U, every 20 epochs. The source trains
    both stages by cross-entropy under PGD-10, and prunes convolutions only, by ratios a layer that
    are set by hand; here the allocation gives them. It sets Z and U up in epoch 0 of a process,
    which loses them where training goes on from a later one; here they are saved.
    """

    source = "Ye et al. 2019, Adversarial robustness vs model compression, arXiv 1903.12561"

    rho: float = Field(1e-3, gt=0)
    """ρ: weight of the penalty at first."""
    rho_growth: float = Field(1.3, ge=1)
    """Factor on ρ at each update."""
    every: int = Field(20, ge=1)
    """Epochs from one update of Z and U to the next: a cycle."""
    reference_factor: bool = False
    """Multiply the penalty's gradient by 1 + the number of updates so far, as the reference does
    without meaning to: its U keeps the graph to the weights. Its published numbers rest on that."""

    admm: StageChanges = StageChanges()
    """Changes to ``finetune`` for the constrained training. The source takes 200 epochs for each of
    them, at a learning rate of 0.01."""

    def method(self, context: Context) -> Method:
        """A fresh method, which holds Z and U."""
        return RadmmMethod(self, context)


class AdmmMethod(Method):
    """Z and U in ``admm``; the mask is set where ``finetune`` begins."""

    def __init__(self, pruner: Admm, context: Context) -> None:
        super().__init__(pruner, context)
        self.z: dict[str, Tensor] = {}
        self.u: dict[str, Tensor] = {}
        self.rho, self.updates = pruner.rho, 0

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Z = Π(W) and U = 0; or the mask."""
        weights = {name: weight.detach() for name, weight in masked.weights.items()}
        if stage.name == "admm":
            self.u = {name: weight.new_zeros(weight.shape) for name, weight in weights.items()}
            self.z = self.project(masked, weights)
        else:
            self.z, self.u = {}, {}  # as large as the network each, and of no more use
            self.keep(masked, {name: weight.abs() for name, weight in weights.items()})

    def project(self, masked: MaskedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Π: the nearest tensors of the asked density."""
        sizes = {name: tensor.abs() for name, tensor in tensors.items()}
        masks = self.masks(masked, sizes, self.context.density)
        return {name: tensor * masks[name] for name, tensor in tensors.items()}

    def penalty(self, stage: Stage, masked: MaskedModel, progress: Progress) -> Tensor | None:
        """Σ ρ/2·‖W − Z + U‖²."""
        if stage.name != "admm":
            return None
        terms = [
            (weight - self.z[name] + self.u[name]).square().sum()
            for name, weight in masked.weights.items()
        ]
        return self.rho / 2 * sum(terms[1:], terms[0])

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """Update ρ, Z and U when it is time; shows how far the weights are from the sparse set."""
        if stage.name != "admm":
            return {}
        weights = {name: weight.detach() for name, weight in masked.weights.items()}
        if (progress.epoch + 1) % self.pruner.every == 0:
            most = math.inf if self.pruner.rho_most is None else self.pruner.rho_most
            self.rho, self.updates = min(self.rho * self.pruner.rho_growth, most), self.updates + 1
            self.z = self.project(masked, {n: w + self.u[n] for n, w in weights.items()})
            self.u = {n: self.u[n] + w - self.z[n] for n, w in weights.items()}
        far = sum(float((w - self.z[n]).square().sum()) for n, w in weights.items())
        size = sum(float(w.square().sum()) for w in weights.values())
        return {"residual": (far / size) ** 0.5}

    def state_dict(self) -> dict[str, Any]:
        """Z, U, ρ and the number of updates."""
        return {"z": self.z, "u": self.u, "rho": self.rho, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.z, self.u = state["z"], state["u"]
        self.rho, self.updates = state["rho"], state["updates"]


class RadmmMethod(AdmmMethod):
    """ADMM, whose penalty may have the reference's factor."""

    def penalty(self, stage: Stage, masked: MaskedModel, progress: Progress) -> Tensor | None:
        """Σ ρ/2·‖W − Z + U‖², times 1 + the number of updates where that is asked for."""
        penalty = super().penalty(stage, masked, progress)
        if penalty is None or not self.pruner.reference_factor:
            return penalty
        return (1 + self.updates) * penalty
