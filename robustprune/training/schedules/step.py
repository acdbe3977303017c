"""A staircase."""

from __future__ import annotations

from pydantic import Field

from robustprune.training.schedules import register
from robustprune.training.schedules.base import Schedule
from robustprune.types import Progress


@register("step")
class Step(Schedule):
    """Multiplied by ``gamma`` at each milestone."""

    milestones: list[float] = [0.5, 0.75]
    """Below 1: a share of the phase. From 1 on: a number of finished epochs."""
    gamma: float = Field(0.1, gt=0, lt=1)
    """The factor of each milestone."""

    def __call__(self, progress: Progress) -> float:
        """``gamma`` to the number of milestones passed."""
        passed = sum(
            progress.fraction >= milestone if milestone < 1 else progress.epoch >= milestone
            for milestone in self.milestones
        )
        return self.gamma**passed
