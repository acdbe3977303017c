"""When masks change: how often, and to which density."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from robustprune.components import Options
from robustprune.types import Progress


class Every(Options):
    """At regular optimizer steps of a stretch of the stage."""

    steps: int = Field(100, ge=1)
    """Optimizer steps from one change to the next."""
    start: float = Field(0.0, ge=0, lt=1)
    """Share of the stage before the first change."""
    stop: float = Field(0.75, gt=0, le=1)
    """Share of the stage after the last one."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"start {self.start} is not before stop {self.stop}")
        return self

    def due(self, progress: Progress) -> bool:
        """Tell if the step that has just been taken, the ``progress.step``-th from 0, is one."""
        within = self.start <= progress.fraction < self.stop
        return within and (progress.step + 1) % self.steps == 0

    def done(self, progress: Progress) -> float:
        """Share of the stretch that lies behind, in [0, 1]."""
        return min(max((progress.fraction - self.start) / (self.stop - self.start), 0.0), 1.0)


def cubic(initial: float, final: float, done: float) -> float:
    """The density along the ramp ``final + (initial − final)·(1 − done)³``.

    Source: Zhu, Gupta 2017, *To prune, or not to prune*, Eq. 1.

    Args:
        initial: density at the start.
        final: density at the end.
        done: share of the ramp that lies behind, in [0, 1].
    """
    return final + (initial - final) * (1 - done) ** 3
