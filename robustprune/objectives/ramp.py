"""Ramps: how a training radius grows from 0 to all of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robustprune.components import Options
from robustprune.types import Progress

MIDDLE = 0.25
"""Place at which a smoothed ramp turns from a fourth power into a line; share of its length."""


class Ramp(Options):
    """The share of a radius that training uses: 0 before the ramp, 1 after it."""

    epochs: float = Field(0.0, ge=0)
    """Length in epochs; 0 for none: from the start on, the whole radius."""
    start: float = Field(0.0, ge=0)
    """Epochs before it begins, in which the radius is 0."""
    shape: Literal["linear", "smoothed"] = "linear"
    """A line; or a fourth power for the first quarter, and a line from there to the end."""
    stages: list[str] = ["pretrain", "train"]
    """The stages that it acts in, ``train`` standing for ``train-1`` too; the others use the whole
    radius."""

    def factor(self, progress: Progress) -> float:
        """The factor on the radius, in [0, 1]; never falls within a stage.

        Args:
            progress: the stage, and how much of it is finished. The ramp's unit is the epoch,
                but it moves with every step.
        """
        if not self._acts(progress):
            return 1.0
        position = progress.fraction * progress.epochs - self.start
        if position >= self.epochs:
            return 1.0
        if position <= 0:
            return 0.0
        share = position / self.epochs
        if self.shape == "linear":
            return share
        # as the SmoothedScheduler of auto-LiRPA (Xu et al. 2020), from the code of Gowal et al.
        # 2018: c·t⁴ up to m, then the line that continues its value and slope and ends at 1
        slope = 4 * MIDDLE**3
        scale = 1 / (MIDDLE**4 + slope * (1 - MIDDLE))
        return scale * share**4 if share <= MIDDLE else 1 - scale * slope * (1 - share)

    def end(self, progress: Progress) -> float:
        """Epochs from the start of the stage to the end of the ramp; 0 where it does not act."""
        return self.start + self.epochs if self._acts(progress) else 0.0

    def _acts(self, progress: Progress) -> bool:
        return progress.stage in self.stages or progress.stage.partition("-")[0] in self.stages
