"""A linear start before another schedule."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robustprune.parts import PartOf
from robustprune.training.schedules import register
from robustprune.training.schedules.base import Schedule
from robustprune.types import Progress


@register("warmup")
class Warmup(Schedule):
    """Linear from 0 to 1 over the first share of the phase, then another schedule over the rest.

    With cosine after it this is the one-cycle schedule that short trainings like.
    """

    share: float = Field(0.2, gt=0, lt=1)
    """The share of the phase that the rise takes."""
    after: Annotated[Schedule, PartOf("schedules", {"name": "cosine"})]
    """What follows; its own fraction runs from 0 to 1 over the rest."""

    def __call__(self, progress: Progress) -> float:
        """``fraction / share`` while rising; at least 0.001, so that the first step moves too."""
        if progress.fraction < self.share:
            return max(progress.fraction / self.share, 1e-3)
        rest = (progress.fraction - self.share) / (1 - self.share)
        return self.after(progress._replace(fraction=rest))
