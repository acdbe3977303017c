"""HARP: learn how much each layer keeps, together with what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from robustprune.masking import MaskedModel, select
from robustprune.masking.allocations import Allocation, raised, round_count, share_out
from robustprune.masking.selection import refuse_nan
from robustprune.masking.structures import Structure
from robustprune.objectives import Loss
from robustprune.pruners import register
from robustprune.pruners.base import Closure, Context, Method, Stage
from robustprune.pruners.hydra import Hydra, HydraMethod
from robustprune.recipe import StageOptions
from robustprune.types import Progress

CUT = 2.0
"""How many times too much may be left at the end, to be cut away, before the user is told."""


@register("harp")
class Harp(Hydra):
    """HYDRA, with one more trained scalar a layer for the share of it that is kept.

    Layer l keeps the ``round(k_l · n_l)`` of its n_l entries whose |score| is largest, with
    ``k_l = k_min + (1 − k_min) · sigmoid(q_l)``, ``k_min = alpha · density``. What is minimised is
    ``L + gamma · max(0, Σ k_l·n_l / Σ n_l / density − 1)``. Gradients are straight-through:
    ``dm/d|s| = 1`` for each entry, and dL/dk_l is the sum of dL/dm over the layer's weights, as if
    a share that grows by δ raised each entry of the mask by δ. So pruned weights, too, tell whether
    their layer should keep more.

    The first k_l are those of the allocation, held between k_min and 0.99; the reference clips at
    −0.99 instead, and starts from NaN in layers whose share is below k_min. Weight decay acts on
    scores, as in the reference, and not on q_l, which it would draw to a density of one half. The
    reference chooses the best epoch on test images, and out of all that follow the first to reach
    the budget; here ``select: best`` takes validation images, and epochs within the budget alone.

    The penalty does not bind, so a mask comes out near the density. Where the scores are learned,
    an exact selection follows: layers keep numbers in proportion to those of the last mask, which
    come to the allocation's at the asked density, none below the allocation's ``minimum``. The
    source is silent on this; its masks keep what they have.

    Under ``filter``, ``channel`` and ``block`` n_l is a number of entries, and so is the budget.
    The reference's channels have a budget of FLOPs.
    """

    source = "Zhao, Wressnegger 2023, Holistic adversarially robust pruning, ICLR 2023"
    cost = "1 training of scores, 1 of weights"

    alpha: float = Field(0.1, gt=0, lt=1)
    """Least density of a layer, as a share of the network's."""
    gamma: float = Field(0.01, gt=0)
    """Weight of the penalty in the first epoch; in the e-th it is e times that, until the budget is
    met once, and stays then. The source has 0.01 for CIFAR-10 and SVHN, 0.1 for ImageNet; it counts
    20 epochs of 390 steps."""
    quota_lr: float | None = Field(None, gt=0)
    """Learning rate of the layers' scalars; absent, the scores' own, but 0.1 at most, which is what
    the reference has for both. At rates that suit scores alone, shares fly from one bound to the
    other before the penalty has grown."""

    @field_validator("structure")
    @classmethod
    def _shares_may_differ(cls, structure: Structure) -> Structure:
        if structure.registered_name == "n_m":
            raise ValueError("layers learn densities of their own, and 'n_m' has one: use 'weight'")
        return structure

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """Scores and shares, the exact selection, then the weights that are left."""
        learned, *finetuned = super().stages(density, recipe)
        return [learned, Stage("select", None), *finetuned]

    def method(self, context: Context) -> Method:
        """A fresh method, which learns scores and shares."""
        return HarpMethod(self, context)


class HarpMethod(HydraMethod):
    """In ``prune`` masks follow scores and shares; ``select`` sets the exact one.

    Attributes:
        quotas: q_l of each layer, ``(layers,)``.
        sizes: n_l of each layer.
        frozen: the penalty's weight since the budget was met; None before.
    """

    pruner: Harp
    quotas: nn.Parameter

    def __init__(self, pruner: Harp, context: Context) -> None:
        super().__init__(pruner, context)
        self.sizes: dict[str, int] = {}
        self.frozen: float | None = None
        self._negative: dict[str, Tensor] = {}

    # -- hooks -------------------------------------------------------------------------------------

    def prepare(self, stage: Stage, masked: MaskedModel) -> None:
        """Scores, until the exact selection; and the layers' scalars."""
        if stage.name == "finetune":
            masked.drop_scores()
        else:
            masked.add_scores()
        if not self.sizes:
            reduce = masked.structure.reduce
            self.sizes = {n: reduce(w.detach()).numel() for n, w in masked.weights.items()}
            device = next(iter(masked.weights.values())).device
            self.quotas = nn.Parameter(torch.zeros(len(self.sizes), device=device))

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """The scores that the weights give, and the allocation's shares; or the exact selection."""
        if stage.name == self.learning:
            self.add_first_scores(masked)
            self.keep(masked, importance(masked))  # which turnover is counted against
            self.start_quotas(masked)
            self.select(stage, masked)
        elif stage.name == "select":
            self.keep_counts(masked, self.exact(masked))

    def param_groups(self, stage: Stage, masked: MaskedModel) -> list[dict[str, Any]]:
        """The layers' scalars, beside what HYDRA trains."""
        groups = super().param_groups(stage, masked)
        if stage.name == self.learning:
            assert stage.options is not None
            rate = self.pruner.quota_lr or min(stage.options.optimizer.lr, 0.1)  # type: ignore[attr-defined]
            groups.append({"params": [self.quotas], "weight_decay": 0.0, "lr": rate})
        return groups

    def select(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the largest |score|, as many in each layer as it is to keep."""
        if stage.name != self.learning:
            return
        self._note_signs(masked)
        shares = self.shares().detach()
        refuse_nan(bool(shares.isnan().any()))
        pairs = zip(self.sizes.items(), shares.tolist(), strict=True)
        self.keep_counts(masked, {name: round_count(share, n) for (name, n), share in pairs})

    def penalty(self, stage: Stage, masked: MaskedModel, progress: Progress) -> Tensor | None:
        """``gamma · max(0, kept / budget − 1)``."""
        if stage.name != self.learning:
            return None
        return self.weight(progress) * (self.density() / self.context.density - 1).clamp_min(0)

    def step(
        self,
        stage: Stage,
        masked: MaskedModel,
        closure: Closure,
        optimizer: Optimizer,
        progress: Progress,
    ) -> Loss:
        """A step on scores, norms and shares, whose gradients follow from those of the scores."""
        if stage.name != self.learning:
            return super().step(stage, masked, closure, optimizer, progress)
        self._note_signs(masked)
        loss = closure()  # the penalty's gradient reaches the shares by itself
        (self.shares() * self.share_gradients(masked)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """Freeze the penalty's weight once the budget is met; shows density and turnover."""
        curves = super().after_epoch(stage, masked, optimizer, progress, metrics)
        if stage.name != self.learning:
            return curves
        if self.frozen is None and self.within_budget:
            self.frozen = self.weight(progress)
        return {**curves, "density": float(self.density().detach())}

    def alarm(self, stage: Stage, history: Sequence[Mapping[str, float]]) -> str:
        """Tell of a density, after the last epoch of scores, that is far above the asked one."""
        if stage.name != self.learning or stage.options is None:
            return ""
        best = stage.options.select == "best"  # which takes an epoch within the budget
        reached = min(one["density"] for one in (history if best else history[-1:]))
        asked = self.context.density
        if len(history) < stage.options.epochs or reached < CUT * asked:
            return ""
        return (
            f"scores were learned at a density of {reached:.3g}, and the mask is now cut to "
            f"{asked:g} at once. Layers may have flown to a share of 1: lower quota_lr; or the "
            f"penalty is too light for so few steps: raise gamma, which is {self.pruner.gamma:g}."
        )

    def eligible(self, stage: Stage, masked: MaskedModel) -> bool:
        """Epochs whose masks are within the budget."""
        return stage.name != self.learning or self.within_budget

    def state_dict(self) -> dict[str, Any]:
        """The layers' scalars, and the penalty's weight where it is frozen."""
        return {"quotas": self.quotas.detach().clone(), "frozen": self.frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over, into the tensor that the optimizer has."""
        self.quotas.data.copy_(state["quotas"])
        self.frozen = state["frozen"]

    # -- shares ------------------------------------------------------------------------------------

    @property
    def least(self) -> float:
        """k_min."""
        return self.pruner.alpha * self.context.density

    def shares(self) -> Tensor:
        """k_l of each layer, ``(layers,)``, in (k_min, 1)."""
        return self.least + (1 - self.least) * self.quotas.sigmoid()

    def density(self) -> Tensor:
        """``Σ k_l·n_l / Σ n_l``, the network's density."""
        sizes = self.quotas.new_tensor(list(self.sizes.values()))
        return (self.shares() * sizes).sum() / sizes.sum()

    @property
    def within_budget(self) -> bool:
        """The excess over the budget rounds to 0, at 4 decimals as in the reference."""
        excess = float(self.density().detach()) / self.context.density - 1
        return round(max(excess, 0.0), 4) == 0

    def weight(self, progress: Progress) -> float:
        """The penalty's weight."""
        growing = (progress.epoch + 1) * self.pruner.gamma
        return growing if self.frozen is None else self.frozen

    def start_quotas(self, masked: MaskedModel) -> None:
        """Set the scalars to give what the masks keep."""
        kept = self.kept(masked)
        shares = self.quotas.new_tensor([kept[name] / n for name, n in self.sizes.items()])
        free = (shares - self.least) / (1 - self.least)
        self.quotas.data.copy_(free.clamp(1e-4, 0.99).logit())

    def share_gradients(self, masked: MaskedModel) -> Tensor:
        """dL/dk_l of each layer: the sum over its weights of dL/dm = g·w = ds·sign(s).

        The signs are those of the scores under which the gradients were taken, wherever
        `Pruner.sharpness` had moved them.
        """
        sums = []
        for name, score in masked.scores.items():
            gradient = torch.zeros_like(score) if score.grad is None else score.grad
            sums.append(torch.where(self._negative[name], -gradient, gradient).sum())
        return torch.stack(sums)

    def _note_signs(self, masked: MaskedModel) -> None:
        self._negative = {name: score.detach() < 0 for name, score in masked.scores.items()}

    # -- counts ------------------------------------------------------------------------------------

    def kept(self, masked: MaskedModel) -> dict[str, int]:
        """Numbers of entries that the masks keep."""
        reduce, masks = masked.structure.reduce, masked.masks.items()
        return {name: int((reduce(mask.float()) > 0).sum()) for name, mask in masks}

    def exact(self, masked: MaskedModel) -> dict[str, int]:
        """Numbers like those of the masks, which come to the allocation's at the asked density."""
        allocation: Allocation = self.pruner.allocation
        entries = {n: masked.structure.reduce(each) for n, each in importance(masked).items()}
        shapes = {name: weight.shape for name, weight in masked.weights.items()}
        total = sum(allocation(entries, self.context.density, shapes).values())
        counts = share_out(self.kept(masked), self.sizes, total)
        floors = allocation.floors(entries)
        even = raised(list(counts.values()), [floors[name] for name in counts], total)
        return dict(zip(counts, even, strict=True))

    def keep_counts(self, masked: MaskedModel, counts: dict[str, int]) -> None:
        """Keep so many of each layer's most important entries."""
        masked.set(
            select(
                importance(masked),
                self.context.density,
                allocation=lambda entries, density, shapes: counts,
                structure=masked.structure,
            )
        )


def importance(masked: MaskedModel) -> dict[str, Tensor]:
    """|score| of each weight."""
    return {name: score.detach().abs() for name, score in masked.scores.items()}
