"""Any attack of the torchattacks library, by its own name and arguments."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from robustprune.adapters import torchattacks
from robustprune.evaluators import register
from robustprune.evaluators.attacks import num_classes, survivors
from robustprune.evaluators.ball import check_ball, distance, inside
from robustprune.evaluators.base import Evaluator
from robustprune.types import Threat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.evaluators.base import PerImage


@register("torchattacks")
class Library(Evaluator):
    """Accuracy under any attack of torchattacks, e.g. ``{attack: CW, args: {c: 1}, eps: 0.5}``.

    An attack that takes a radius gets ours and must stay in that ball. For one that looks for the
    smallest perturbation instead (CW, DeepFool, FAB, …) only what it finds within the ball counts,
    and the median norm of that is reported beside the accuracy. The library's CW moves no pixel
    that is exactly 0 or 1, so it says little about images such as MNIST's.
    """

    attack: str
    """The attack's class in torchattacks."""
    args: dict[str, Any] = Field(default_factory=dict)
    """The attack's own arguments; the library's defaults where absent."""
    norm: Literal["linf", "l2"] = "linf"
    """The norm that perturbations are measured in."""
    eps: float | None = Field(None, gt=0)
    """Radius of the ball; [0, 1] pixel range. May stand among ``args`` instead if the attack
    takes it there."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        torchattacks.check_arguments(self.attack, self.args)
        traits = torchattacks.traits(self.attack)
        if "norm" in self.args:
            raise ValueError("norm belongs beside 'attack', not into args")
        if traits.norm not in (None, self.norm):
            raise ValueError(
                f"torchattacks.{self.attack} moves in the {traits.norm} ball, not in "
                f"{self.norm}: set norm: {traits.norm}, or choose another attack"
            )
        radii = {self.eps, self.args.get(traits.radius) if traits.radius else None} - {None}
        if len(radii) != 1:
            raise ValueError(
                f"torchattacks.{self.attack} needs one radius 'eps', within which what it finds "
                f"counts; got {sorted(radii, key=str) or 'none'}"
            )
        if not all(isinstance(radius, int | float) and radius > 0 for radius in radii):
            raise ValueError(f"{traits.radius} must be a number above 0; got {radii.pop()!r}")
        return self

    @property
    def metric(self) -> str:
        """The label, or ``torchattacks_`` and the attack's name in small letters."""
        return self.label or f"{self.registered_name}_{self.attack.lower()}"

    @property
    def radius(self) -> float:
        """The ball's radius, wherever the recipe states it."""
        argument = torchattacks.traits(self.attack).radius
        return self.eps or float(self.args[argument or ""])

    @property
    def refutes(self) -> Threat:
        """The ball that is searched."""
        return Threat(self.norm, self.radius)

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Whether each image withstands, and the norm of what broke it (infinite if nothing did).

        The norms are left out for attacks that do not look for small ones.
        """
        import torch

        arguments = self._arguments(num_classes(model, images), seed)
        attack = partial(torchattacks.perturb, self.attack, model, **arguments)
        ball: dict[str, Any] = {"norm": self.norm, "eps": self.radius}
        if not torchattacks.traits(self.attack).minimum_norm:
            accept = partial(check_ball, evaluator=self.metric, **ball)
            return {self.metric: survivors(model, images, labels, attack, accept).robust}
        outcome = survivors(model, images, labels, attack, partial(inside, **ball))
        norms = distance(outcome.perturbed, images, self.norm)
        return {
            self.metric: outcome.robust,
            f"{self.metric}_norm_median": torch.where(outcome.fooled, norms, torch.inf),
        }

    def _arguments(self, classes: int, seed: int) -> dict[str, Any]:
        ours = {
            torchattacks.traits(self.attack).radius: self.radius,
            "norm": torchattacks.NORMS[self.norm],
            "n_classes": min(classes, torchattacks.MOST_CLASSES),
            "seed": seed,
        }
        taken = {k: v for k, v in ours.items() if k and torchattacks.takes_argument(self.attack, k)}
        return taken | self.args
