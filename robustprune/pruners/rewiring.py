"""Deep rewiring: signs are drawn once, and a weight that would change its own makes way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from robustprune.components import PartOf
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.masking.selection import init_scores
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Stage, reset_grown
from robustprune.pruners.dynamic import Rewired
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress

BORN = 1e-12
"""Size of a weight that has just come to be."""


@register("deep_rewiring")
class DeepRewiring(Rewired):
    """Sample connections while training: a weight that reaches 0 dies, another is born anywhere.

    ``W = s·max(θ, 0)`` with signs s drawn at the start and frozen; a weight is kept while θ > 0.
    Each optimizer step is followed by ``θ += rate·noise·N(0, 1)`` and ``θ −= rate·l1`` on kept
    weights, rate being the learning rate. What has θ ≤ 0 then is dropped, and exactly as many
    dormant weights, drawn at random, what was just dropped among them, start from θ = 1e-12 with
    the sign of their place. It is the Bayesian connectivity sampling (BCS-P) of Özdenizci and
    Legenstein under a robust objective.

    As s² = 1, a step on W = s·θ is the step on θ, so W itself is trained. θ starts from the
    |weights| of the network before training. The references draw each new weight's layer in
    proportion to the layers' sizes and leave some out where a layer has no room; here its place is
    uniform over all dormant ones, and the number exact. They give layers hand-made shares at the
    start (60 % of the first and the last), here it is the allocation; they let the momentum of
    dropped weights go on, here a new weight has none; and a layer that lost all weights gets one.
    """

    source = "Bellec et al. 2018, arXiv 1711.05136; Özdenizci, Legenstein 2021, ICML (PMLR 139)"
    cost = "1 training from scratch"

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "erk"})]
    """The shares of the first, random mask."""
    noise: float = Field(1e-6, ge=0)
    """Deviation of the noise, in units of the learning rate: 1e-6 for robust training, 1e-5 in
    Bellec's code."""
    l1: float = Field(0.0, ge=0)
    """Pull of kept weights towards 0, in units of the learning rate: 1e-5 in Bellec's code, none
    for robust training."""
    rescale: bool = False
    """Enlarge each layer's first weights by ``1 / √density``, so that signals pass as through the
    dense network; without norm layers they may vanish. The sources do not, and have norm layers."""
    anew: Literal["network", "layer"] = "network"
    """New weights come anywhere in the network, as for robust training, or in the layers that have
    lost theirs."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training."""

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training, from scratch."""
        return [Stage("train", self.train.over(self.section("pretrain", recipe)))]

    def method(self, context: Context) -> Method:
        """A fresh method, which draws signs and rewires."""
        return RewiringMethod(self, context)


class RewiringMethod(Method):
    """Signs and a random mask in `begin`; the mask moves in `after_step`."""

    pruner: DeepRewiring

    def __init__(self, pruner: DeepRewiring, context: Context) -> None:
        super().__init__(pruner, context)
        self.signs: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Draw signs and the mask, and give weights their signs."""
        generator, importance = self.context.generator, {}
        for name, weight in masked.weights.items():
            sign = torch.randint(2, weight.shape, generator=generator, dtype=torch.int8) * 2 - 1
            self.signs[name] = sign.to(weight.device)
            weight.copy_(self.signs[name] * weight.abs().clamp_min(BORN))
            importance[name] = init_scores(weight, "random", generator)
        self.keep(masked, importance)
        if self.pruner.rescale:
            for name, mask in masked.masks.items():
                masked.weights[name].mul_((mask.numel() / int(mask.sum())) ** 0.5)

    def after_step(
        self, stage: Stage, masked: MaskedModel, optimizer: Optimizer, progress: Progress
    ) -> None:
        """Stir what is kept, drop what has reached 0, and let as many others begin."""
        self.stir(masked, float(optimizer.param_groups[0]["lr"]))
        masks, alive = masked.masks, self.alive(masked)
        lost = {name: int(mask.sum() - alive[name].sum()) for name, mask in masks.items()}
        if any(lost.values()):
            masked.set(alive)
            change = masked.set(self.joined(alive, lost))
            reset_grown(masked, optimizer, change)
            for name, grown in change.grown.items():
                masked.weights[name].data[grown] = BORN * self.signs[name][grown].float()

    @torch.no_grad()
    def stir(self, masked: MaskedModel, rate: float) -> None:
        """Add noise to kept weights, and pull them towards 0."""
        for name, mask in masked.masks.items():
            weight, sign = masked.weights[name], self.signs[name]
            noise = torch.randn(int(mask.sum()), generator=self.context.generator).to(weight)
            moved = rate * (self.pruner.noise * noise - self.pruner.l1)
            weight[mask] += sign[mask] * moved

    def alive(self, masked: MaskedModel) -> dict[str, Tensor]:
        """The kept weights that have their sign still."""
        weights = masked.weights
        return {n: mask & (weights[n] * self.signs[n] > 0) for n, mask in masked.masks.items()}

    def joined(self, alive: Mapping[str, Tensor], lost: Mapping[str, int]) -> dict[str, Tensor]:
        """Those alive, and as many new ones as were lost."""
        if self.pruner.anew == "layer":
            return {name: self.born({name: mask}, lost[name])[name] for name, mask in alive.items()}
        empty = {name: mask for name, mask in alive.items() if not mask.any()}
        first = {**alive, **{n: self.born({n: mask}, 1)[n] for n, mask in empty.items()}}
        return self.born(first, sum(lost.values()) - len(empty))

    def born(self, masks: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """The masks with so many more places, drawn from all that are free."""
        flat = torch.cat([mask.flatten() for mask in masks.values()])
        free = (~flat).nonzero().flatten()
        drawn = distinct(count, len(free), self.context.generator)
        flat[free[drawn.to(free.device)]] = True
        parts = torch.split(flat, [mask.numel() for mask in masks.values()])
        return {n: part.view(m.shape) for (n, m), part in zip(masks.items(), parts, strict=True)}

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """The distance from the first mask."""
        return {"turnover": masked.turnover}

    def state_dict(self) -> dict[str, Any]:
        """The signs."""
        return {"signs": self.signs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.signs = state["signs"]


def distinct(count: int, total: int, generator: torch.Generator) -> Tensor:
    """``count`` different numbers below ``total``, every choice of them equally likely.

    Few of many are drawn without a permutation of all, as this is done at each step.
    """
    if 4 * count > total:
        return torch.randperm(total, generator=generator)[:count]
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < count:
        more = torch.randint(total, (2 * count,), generator=generator)
        drawn = torch.unique(torch.cat([drawn, more]))
    return drawn[torch.randperm(len(drawn), generator=generator)[:count]]
