"""Any attack of the torchattacks library, by its own name and arguments."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from robustprune.adapters import attack_arguments
from robustprune.adapters.attack_needs import check_fits
from robustprune.evaluators import register
from robustprune.evaluators.attacks import num_classes, survivors
from robustprune.evaluators.ball import check_ball, distance, inside
from robustprune.evaluators.base import Evaluator, weaker
from robustprune.radii import Radius
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

    The length of the steps in a ball follows from its radius, as that of ``pgd``, unless ``args``
    say it. DeepFool, JSMA, OnePixel, Pixle and SparseFool take one image after the other: JSMA up
    to two minutes for one of 3 × 32 × 32 pixels, so name few ``samples``.
    """

    batch_size: int = Field(250, ge=1)
    """Images a batch; 1 if absent for attacks that take one image after the other."""

    attack: str
    """The attack's class in torchattacks."""
    args: dict[str, Any] = Field(default_factory=dict)
    """The attack's own arguments; the library's defaults where absent, but for its step."""
    norm: Literal["linf", "l2"] = "linf"
    """The norm that perturbations are measured in."""
    eps: Radius | None = Field(None, gt=0)
    """Radius of the ball; [0, 1] pixel range. May stand among ``args`` instead if the attack
    takes it there."""

    @model_validator(mode="before")
    @classmethod
    def _in_sight(cls, data: Any) -> Any:
        """Batches so small that something is seen of a slow attack."""
        slow = isinstance(data, dict) and data.get("attack") in attack_arguments.ONE_BY_ONE
        return {"batch_size": 1, **data} if slow else data

    @model_validator(mode="after")
    def _check(self) -> Self:
        attack_arguments.check_arguments(self.attack, self.args)
        traits = attack_arguments.traits(self.attack)
        if "norm" in self.args:
            raise ValueError("norm belongs beside 'attack', not into args")
        if traits.norm not in (None, self.norm):
            raise ValueError(
                f"torchattacks.{self.attack} moves in the {traits.norm} ball, not in "
                f"{self.norm}: set norm: {traits.norm}, or choose another attack"
            )
        attack_arguments.check_lengths(self.attack, self.args, norm=self.norm)
        radii = {self.eps, self.args.get(traits.radius) if traits.radius else None} - {None}
        if len(radii) != 1:
            raise ValueError(
                f"torchattacks.{self.attack} needs one radius 'eps', within which what it finds "
                f"counts; got {sorted(radii, key=str) or 'none'}"
            )
        attack_arguments.with_step(self.attack, self.args, eps=self.radius)
        return self

    @property
    def stem(self) -> str:
        """``torchattacks_`` and the attack's name in small letters."""
        return f"{self.registered_name}_{self.attack.lower()}"

    @property
    def departures(self) -> list[str]:
        """Counts below the library's own, and the steps of its AutoAttack, which are few."""
        usual = attack_arguments.defaults(self.attack)
        counts = [key for key in attack_arguments.COUNTS if key in self.args]
        fixed = [str(attack_arguments.AUTOATTACK_STEPS)] if self.attack == "AutoAttack" else []
        chosen = ["version", *counts]
        return [*weaker(self.args, usual, [k for k in chosen if k in self.args]), *fixed]

    @property
    def radius(self) -> float:
        """The ball's radius, wherever the recipe states it."""
        argument = attack_arguments.traits(self.attack).radius
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

        from robustprune.adapters import torchattacks

        classes = num_classes(model, images)
        arguments = self._arguments(classes, seed)
        check_fits(
            self.attack,
            shape=images.shape[1:],
            classes=classes,
            arguments=arguments,
            evaluator=self.metric,
        )
        attack = partial(torchattacks.perturb, self.attack, model, **arguments)
        ball: dict[str, Any] = {"norm": self.norm, "eps": self.radius}
        if not attack_arguments.traits(self.attack).minimum_norm:
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
            attack_arguments.traits(self.attack).radius: self.radius,
            "norm": attack_arguments.NORMS[self.norm],
            "n_classes": min(classes, attack_arguments.MOST_CLASSES),
            "seed": seed,
        }
        taken = {
            k: v for k, v in ours.items() if k and attack_arguments.takes_argument(self.attack, k)
        }
        return attack_arguments.with_step(self.attack, taken | self.args, eps=self.radius)
