"""No change."""

from __future__ import annotations

from robustprune.training.schedules import register
from robustprune.training.schedules.base import Schedule
from robustprune.types import Progress


@register("constant")
class Constant(Schedule):
    """The same learning rate throughout."""

    def __call__(self, progress: Progress) -> float:
        """1."""
        return 1.0
