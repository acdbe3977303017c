"""Pruning a robust network without an adversary."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from robustprune.pruners import register
from robustprune.pruners.admm import Admm
from robustprune.pruners.base import Stage
from robustprune.recipe import StageChanges, StageOptions


@register("pwoa")
class Pwoa(Admm):
    """ADMM that distils the robust dense network, without adversarial images.

    As `admm` with a ρ that grows up to 1, but both stages minimise the objective `pwoa`: the
    constrained training the distillation alone, finetuning with the HSIC bottleneck beside it, as
    in the scripts of the source. The recipe's own objective trains the dense network, which must be
    robust. A stage that names an objective keeps it.

    The source's code sets Z to Π(W) at the start of each epoch, so that U counts in the projection
    of one epoch out of three only; here Z stays until its next update. It adds images under attack
    where asked to: give ``finetune`` an objective that attacks instead.
    """

    source = "Jian et al. 2022, PwoA, arXiv 2210.04311"
    cost = "2 trainings of weights on clean images"

    rho: float = Field(1e-2, gt=0)
    """ρ: weight of the penalty at first."""
    rho_growth: float = Field(1.35, ge=1)
    """Factor on ρ at each update."""
    rho_most: float | None = Field(1.0, gt=0)
    """ρ grows no further than that; null: it grows at every update."""
    every: int = Field(3, ge=1)
    """Epochs from one update of Z and U to the next: a cycle."""
    admm: StageChanges = StageChanges()
    """Changes to ``finetune`` for the constrained training. The source takes 50 epochs at a
    learning rate of 0.01."""
    finetune: StageChanges = StageChanges()
    """Changes to ``finetune`` for what is left. The source takes 100 epochs at 0.005."""

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """Those of ADMM, with objectives that need no adversary."""
        admm, finetune = super().stages(density, recipe)
        assert admm.options is not None
        assert finetune.options is not None
        alone = StageChanges(objective={"name": "pwoa", "lambda_x": 0, "lambda_y": 0})
        both = StageChanges(objective={"name": "pwoa"})
        return [
            admm._replace(options=self.admm.over(alone.over(admm.options))),
            finetune._replace(options=self.finetune.over(both.over(finetune.options))),
        ]
