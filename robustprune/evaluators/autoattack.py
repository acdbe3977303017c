"""AutoAttack: the field's yardstick, an ensemble without knobs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from robustprune.adapters import torchattacks
from robustprune.errors import UsageError
from robustprune.evaluators import register
from robustprune.evaluators.attacks import num_classes, survivors
from robustprune.evaluators.ball import check_ball
from robustprune.evaluators.base import Evaluator
from robustprune.types import Threat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.evaluators.base import PerImage

_LEAST_CLASSES = {"standard": 4, "plus": 4, "rand": 3}  # the losses rank so many logits
_LEAST_SIDE = 5  # pixels; Square in ℓ2 starts from a grid of 5 x 5


@register("autoattack")
class AutoAttack(Evaluator):
    """Accuracy under AutoAttack. Source: Croce, Hein 2020; torchattacks' implementation.

    With 100 steps, and at most 9 target classes, as the official one has it.
    """

    norm: Literal["linf", "l2"] = "linf"
    """Which ball the adversary moves in."""
    eps: float = Field(8 / 255, gt=0)
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
        classes = num_classes(model, images)
        self._check(classes, min(images.shape[2:]))
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

    def _check(self, classes: int, side: int) -> None:
        least = _LEAST_CLASSES[self.version]
        if classes < least:
            raise UsageError(
                f"evaluator '{self.metric}': AutoAttack's {self.version} version needs a network "
                f"with at least {least} classes, this one has {classes}. Use {{name: pgd}} with "
                "several restarts."
            )
        if self.norm == "l2" and self.version != "rand" and side < _LEAST_SIDE:
            raise UsageError(
                f"evaluator '{self.metric}': AutoAttack in l2 needs images of at least "
                f"{_LEAST_SIDE} pixels a side, these have {side}. Use {{name: pgd, norm: l2}}."
            )
