"""Schedules: the learning rate as a function of where the stage is."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from robustprune.components import Part, PartOf
from robustprune.registry import Registry
from robustprune.types import Progress

__all__ = ["Schedule", "create", "get", "names", "register"]


class Schedule(Part):
    """A factor on the learning rate, set anew before each optimizer step."""

    def __call__(self, progress: Progress) -> float:
        """The factor, usually in [0, 1]. The first step of a stage has fraction 0."""
        raise TypeError(f"{type(self).__name__} must define __call__(progress)")


registry: Registry[Schedule] = Registry("schedules", base=Schedule, modules=[])
register, create, names, get = registry.register, registry.create, registry.names, registry.get


@register("constant")
class Constant(Schedule):
    """The same learning rate throughout."""

    def __call__(self, progress: Progress) -> float:
        """1."""
        return 1.0


@register("cosine")
class Cosine(Schedule):
    """From 1 down to ``floor`` along half a cosine, a step at a time.

    Source: Loshchilov, Hutter 2017, Eq. 5, without restarts.
    """

    floor: float = Field(0.0, ge=0, le=1)
    """The factor it ends on."""

    def __call__(self, progress: Progress) -> float:
        """``floor + (1 − floor)·(1 + cos(π·fraction)) / 2``."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress.fraction)) / 2


@register("step")
class Step(Schedule):
    """Multiplied by ``gamma`` at each milestone."""

    milestones: list[float] = [0.5, 0.75]
    """Below 1: a share of the stage. From 1 on: a number of finished epochs."""
    gamma: float = Field(0.1, gt=0, lt=1)
    """The factor of each milestone."""

    def __call__(self, progress: Progress) -> float:
        """``gamma`` to the number of milestones passed."""
        passed = sum(
            progress.fraction >= milestone if milestone < 1 else progress.epoch >= milestone
            for milestone in self.milestones
        )
        return self.gamma**passed


@register("cyclic")
class Cyclic(Schedule):
    """Multiplied by ``gamma`` in each further third of a cycle, and reset at the next cycle.

    With ADMM's cycles, after each of which Z and U are updated: Ye et al. 2019 (arXiv 1903.12561).
    """

    epochs: int = Field(20, ge=1)
    """Epochs of a cycle."""
    gamma: float = Field(0.1, gt=0, le=1)
    """The factor of the second third; its square is that of the last one."""

    def __call__(self, progress: Progress) -> float:
        """``gamma`` to the number of the cycle's thirds that have passed, in whole epochs."""
        return self.gamma ** (progress.epoch % self.epochs * 3 // self.epochs)


@register("warmup")
class Warmup(Schedule):
    """Linear from 0 to 1 over the first share of the stage, then another schedule over the rest.

    With cosine after it this is the one-cycle schedule that short trainings like.
    """

    share: float = Field(0.2, gt=0, lt=1)
    """The share of the stage that the rise takes."""
    after: Annotated[Schedule, PartOf("schedules", {"name": "cosine"})]
    """The schedule that follows; its own fraction runs from 0 to 1 over the rest."""

    def __call__(self, progress: Progress) -> float:
        """``fraction / share`` while rising; at least 0.001, so that the first step moves too."""
        if progress.fraction < self.share:
            return max(progress.fraction / self.share, 1e-3)
        rest = (progress.fraction - self.share) / (1 - self.share)
        return self.after(progress._replace(fraction=rest))
