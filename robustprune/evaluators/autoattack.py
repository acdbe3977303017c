"""AutoAttack: the field's yardstick, an ensemble without knobs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robustprune.adapters import attack_arguments
from robustprune.adapters.attack_needs import check_fits
from robustprune.evaluators import register
from robustprune.evaluators.attacks import num_classes, survivors
from robustprune.evaluators.ball import check_ball
from robustprune.evaluators.base import Evaluator
from robustprune.radii import Radius
from robustprune.types import Threat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.evaluators.base import PerImage


@register("autoattack")
class AutoAttack(Evaluator):
    """Accuracy under AutoAttack. Source: Croce, Hein 2020; torchattacks' implementation.

    With 100 steps, and at most 9 target classes, as the official one has it. Of fewer steps or
    another version it is called after them, e.g. ``autoattack-10`` or ``autoattack-rand``.
    """

    effort = ("version", "steps")

    norm: Literal["linf", "l2"] = "linf"
    """Which ball the adversary moves in."""
    eps: Radius = Field(8 / 255, gt=0)
    """Radius of the ball; [0, 1] pixel range."""
    version: Literal["standard", "plus", "rand"] = "standard"
    """The ensemble: ``standard`` for deterministic networks, ``plus`` with more attacks and
    restarts, ``rand`` for randomised networks."""
    steps: int = Field(100, ge=1)
    """Gradient steps of each APGD and FAB run. torchattacks itself takes 10, which is weaker."""

    @property
    def refutes(self) -> Threat:
        """The ball that is searched."""
        return Threat(self.norm, self.eps)

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Whether each image is classified rightly, untouched and under each of the attacks.

        Raises:
            UsageError: the network has too few classes, or the images are too small.
        """
        from robustprune.adapters import torchattacks

        classes = num_classes(model, images)
        arguments = {"norm": attack_arguments.NORMS[self.norm], "version": self.version}
        check_fits(
            "AutoAttack",
            shape=images.shape[1:],
            classes=classes,
            arguments=arguments,
            evaluator=self.metric,
        )
        attack = partial(
            torchattacks.autoattack,
            model,
            norm=self.norm,
            eps=self.eps,
            version=self.version,
            steps=self.steps,
            num_classes=classes,
            seed=seed,
        )
        accept = partial(check_ball, norm=self.norm, eps=self.eps, evaluator=self.metric)
        outcome = survivors(model, images, labels, attack, accept)
        return {self.metric: outcome.robust}
