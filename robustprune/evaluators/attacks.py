"""Accuracy without an adversary, and empirical robust accuracy: the paper's *era*."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robustprune.adapters import SETUP, attack_arguments, torchattacks
from robustprune.adapters.attack_arguments import check_fits
from robustprune.evaluators import register
from robustprune.evaluators.accuracy import PerImage
from robustprune.evaluators.base import Evaluator, weaker
from robustprune.evaluators.criteria import (
    Accept,
    check_ball,
    distance,
    inside,
    num_classes,
    survivors,
)
from robustprune.radii import Radius, StepSize, default_step
from robustprune.types import Norm, Threat


@register("clean")
class Clean(Evaluator):
    """Top-1 accuracy without an adversary, and ``clean_top5`` with more than ten classes."""

    calls_only = True

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Ask if the label has the largest logit, and if it is among the five largest."""
        with torch.no_grad():
            found = torchattacks.logits(model, images)
        finite = found.isfinite().all(1)
        results = {self.metric: (found.argmax(1) == labels) & finite}
        if found.shape[1] > 10:
            five = found.topk(5, dim=1).indices == labels.unsqueeze(1)
            results[f"{self.metric}_top5"] = five.any(1) & finite
        return results


class _InBall(Evaluator):
    """The base of attacks that move in a ball of a norm and a radius of ours."""

    libraries = ("torchattacks",)
    install = SETUP
    calls_only = True

    norm: Norm = "linf"
    """Which ball the adversary moves in."""
    eps: Radius = Field(8 / 255, gt=0)
    """Radius of the ball; [0, 1] pixel range."""

    @property
    def refutes(self) -> Threat:
        """The ball that is searched."""
        return Threat(self.norm, self.eps)

    @property
    def accept(self) -> Accept:
        """Takes what an attack proposes, and raises if some of it is not in the ball."""
        return partial(check_ball, norm=self.norm, eps=self.eps, evaluator=self.metric)


@register("pgd")
class Pgd(_InBall):
    """Accuracy under PGD on the cross-entropy, the worst of some random starts.

    Source: Madry et al. 2018, Sec. 2.1; torchattacks' PGD and PGDL2. Of fewer steps than 50 it is
    called after them, e.g. ``pgd-20``.
    """

    effort = ("steps",)

    steps: int = Field(50, ge=1)
    """Gradient steps from each start."""
    step_size: StepSize | None = None
    """Length of a step; a quarter of eps if absent, 1.25·eps/steps in fewer than five steps."""
    restarts: int = Field(1, ge=1)
    """Random starts in the ball; each one attacks only what the ones before it left."""

    @property
    def passes(self) -> int:
        """A forward and a backward pass for each step."""
        return 2 * self.steps * self.restarts

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Ask if each image is classified rightly, untouched and from every start."""
        attack = partial(
            torchattacks.perturb,
            "PGD" if self.norm == "linf" else "PGDL2",
            self.attacked(model),
            eps=self.eps,
            alpha=self.step_size or default_step(self.eps, self.steps),
            steps=self.steps,
            random_start=True,
        )
        outcome = survivors(model, images, labels, attack, self.accept, rounds=self.restarts)
        return {self.metric: outcome.robust}

    def attacked(self, model: nn.Module) -> nn.Module:
        """The network whose gradient is followed."""
        return model


@register("transfer")
class Transfer(Pgd):
    """Accuracy on adversarial images of the float network that a quantised one computes with.

    PGD on the float network, judged by the quantised one: where rounding hides the gradient, what
    fools the one fools the other all the same. Of a network that is not quantised it is ``pgd``.
    """

    def attacked(self, model: nn.Module) -> nn.Module:
        """The float network that the quantised one computes with."""
        if not getattr(model, "quantised", False):  # any network may have a part of that name
            return model
        source: Any = model.source
        return source  # type: ignore[no-any-return]


@register("autoattack")
class AutoAttack(_InBall):
    """Accuracy under AutoAttack. Source: Croce, Hein 2020; torchattacks' implementation.

    With 100 steps, and at most 9 target classes, as the official one has it. Of fewer steps or
    another version it is called after them, e.g. ``autoattack-10`` or ``autoattack-rand``.
    """

    effort = ("version", "steps")

    version: Literal["standard", "plus", "rand"] = "standard"
    """The ensemble: ``standard`` for deterministic networks, ``plus`` with more attacks and
    restarts, ``rand`` for randomised networks."""
    steps: int = Field(100, ge=1)
    """Gradient steps of each APGD and FAB run. torchattacks itself takes 10, which is weaker."""

    @property
    def passes(self) -> int:
        """Passes of an image that withstands, but for Square's: ten runs or more."""
        return 20 * self.steps

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Ask if each image is classified rightly, untouched and under each of the attacks.

        Raises:
            UsageError: the network has too few classes, or the images are too small.
        """
        classes = num_classes(model, images)
        check_fits(
            "AutoAttack",
            shape=images.shape[1:],
            classes=classes,
            arguments={"norm": attack_arguments.NORMS[self.norm], "version": self.version},
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
        return {self.metric: survivors(model, images, labels, attack, self.accept).robust}


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

    libraries = ("torchattacks",)
    install = SETUP
    calls_only = True

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
        chosen = [key for key in ("version", *attack_arguments.COUNTS) if key in self.args]
        fixed = [str(attack_arguments.AUTOATTACK_STEPS)] if self.attack == "AutoAttack" else []
        return [*weaker(self.args, usual, chosen), *fixed]

    @property
    def passes(self) -> int:
        """A forward and a backward pass for each of its steps, if it has any."""
        steps = {**attack_arguments.defaults(self.attack), **self.args}.get("steps", 1)
        return 2 * steps if isinstance(steps, int) else 2

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
        """Ask if each image withstands, and for the norm of what broke it (infinite: nothing did).

        The norms are left out for attacks that do not look for small ones.
        """
        classes, traits = num_classes(model, images), attack_arguments.traits(self.attack)
        ours = {
            traits.radius: self.radius,
            "norm": attack_arguments.NORMS[self.norm],
            "n_classes": min(classes, attack_arguments.MOST_CLASSES),
            "seed": seed,
        }
        takes = partial(attack_arguments.takes_argument, self.attack)
        taken = {key: value for key, value in ours.items() if key and takes(key)} | self.args
        arguments = attack_arguments.with_step(self.attack, taken, eps=self.radius)
        check_fits(
            self.attack,
            shape=images.shape[1:],
            classes=classes,
            arguments=arguments,
            evaluator=self.metric,
        )
        attack = partial(torchattacks.perturb, self.attack, model, **arguments)
        ball: dict[str, Any] = {"norm": self.norm, "eps": self.radius}
        if not traits.minimum_norm:
            accept = partial(check_ball, evaluator=self.metric, **ball)
            return {self.metric: survivors(model, images, labels, attack, accept).robust}
        outcome = survivors(model, images, labels, attack, partial(inside, **ball))
        norms = distance(outcome.perturbed, images, self.norm)
        return {
            self.metric: outcome.robust,
            f"{self.metric}_norm_median": torch.where(outcome.fooled, norms, torch.inf),
        }
