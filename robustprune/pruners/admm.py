"""Pruning as a constraint, met by the alternating direction method of multipliers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from robustprune.masking import MaskedModel
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress


@register("radmm")
class Radmm(Pruner):
    """Draw weights to a sparse set while the robust loss is minimised.

    Minimises L + Σ ρ/2·‖W − Z + U‖² over all weights; every few epochs Z becomes the projection of
    W + U onto the asked density, and U grows by W − Z. Then the mask of the largest weights is set,
    and what is left is finetuned.
    """

    still = ("finetune",)
    source = "Ye et al. 2019, Adversarial robustness vs model compression, arXiv 1903.12561"
    cost = "2 trainings of weights"

    rho: float = Field(1e-3, gt=0)
    """ρ: weight of the penalty at first."""
    rho_growth: float = Field(1.3, ge=1)
    """Factor on ρ at each update."""
    every: int = Field(20, ge=1)
    """Epochs from one update of Z and U to the next."""
    reference_factor: bool = False
    """Multiply the penalty's gradient by 1 + the number of updates so far, as the reference does
    without meaning to: its U keeps the graph to the weights. Its published numbers rest on that."""

    admm: StageChanges = StageChanges()
    """Changes to ``finetune`` for the constrained training. The source takes 200 epochs for each of
    them, at a learning rate of 0.01."""
    finetune: StageChanges = StageChanges()
    """Changes to ``finetune`` for what is left."""

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """The constrained training and finetuning, both as ``finetune`` says."""
        options = self.section("finetune", recipe)
        stages = {"admm": self.admm.over(options), "finetune": self.finetune.over(options)}
        return [Stage(name, changed) for name, changed in stages.items()]

    def method(self, context: Context) -> Method:
        """A fresh method, which holds Z and U."""
        return RadmmMethod(self, context)


class RadmmMethod(Method):
    """Z and U in ``admm``; the mask is set where ``finetune`` begins."""

    def __init__(self, pruner: Radmm, context: Context) -> None:
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
        factor = 1 + self.updates if self.pruner.reference_factor else 1
        return factor * self.rho / 2 * sum(terms[1:], terms[0])

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
            self.rho, self.updates = self.rho * self.pruner.rho_growth, self.updates + 1
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
