"""What every schedule is."""

from __future__ import annotations

from robustprune.parts import Part
from robustprune.types import Progress


class Schedule(Part):
    """A factor on the learning rate, set anew before each optimizer step."""

    def __call__(self, progress: Progress) -> float:
        """The factor, usually in [0, 1]. The first step of a stage has fraction 0."""
        raise TypeError(f"{type(self).__name__} must define __call__(progress)")
