"""Half a cosine."""

from __future__ import annotations

import math

from pydantic import Field

from robustprune.training.schedules import register
from robustprune.training.schedules.base import Schedule
from robustprune.types import Progress


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
