"""Empirical robust accuracy under projected gradient descent: the paper's *era*."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robustprune.evaluators import register
from robustprune.evaluators.attacks import survivors
from robustprune.evaluators.ball import check_ball
from robustprune.evaluators.base import Evaluator
from robustprune.radii import Radius, StepSize, default_step
from robustprune.types import Threat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.evaluators.base import PerImage


@register("pgd")
class Pgd(Evaluator):
    """Accuracy under PGD on the cross-entropy, the worst of some random starts.

    Source: Madry et al. 2018, Sec. 2.1; torchattacks' PGD and PGDL2. Of fewer steps than 50 it is
    called after them, e.g. ``pgd-20``.
    """

    effort = ("steps",)

    norm: Literal["linf", "l2"] = "linf"
    """Which ball the adversary moves in."""
    eps: Radius = Field(8 / 255, gt=0)
    """Radius of the ball; [0, 1] pixel range."""
    steps: int = Field(50, ge=1)
    """Gradient steps from each start."""
    step_size: StepSize | None = None
    """Length of a step; a quarter of eps if absent, 1.25·eps/steps in fewer than five steps."""
    restarts: int = Field(1, ge=1)
    """Random starts in the ball; each one attacks only what the ones before it left."""

    @property
    def refutes(self) -> Threat:
        """The ball that is searched."""
        return Threat(self.norm, self.eps)

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Whether each image is classified rightly, untouched and from every start."""
        from robustprune.adapters import torchattacks

        attack = partial(
            torchattacks.perturb,
            "PGD" if self.norm == "linf" else "PGDL2",
            model,
            eps=self.eps,
            alpha=self.step_size or default_step(self.eps, self.steps),
            steps=self.steps,
            random_start=True,
        )
        accept = partial(check_ball, norm=self.norm, eps=self.eps, evaluator=self.metric)
        outcome = survivors(model, images, labels, attack, accept, rounds=self.restarts)
        return {self.metric: outcome.robust}
