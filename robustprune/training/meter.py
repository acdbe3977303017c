"""Running means of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from robustprune.shard import Shard

if TYPE_CHECKING:
    from torch import Tensor

    from robustprune.objectives import Loss

_IMAGES = "images"


class Meter:
    """Means over the images seen: loss, accuracy, and the objective's named parts.

    Attributes:
        sums: of each over the images, and their number; what `of` takes.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {_IMAGES: 0.0, "loss": 0.0, "accuracy": 0.0}

    @classmethod
    def of(cls, sums: Iterable[dict[str, float]]) -> Meter:
        """One that has seen what several have."""
        meter = cls()
        for one in sums:
            for name, value in one.items():
                meter.sums[name] = meter.sums.get(name, 0.0) + value
        return meter

    @classmethod
    def resumed(cls, sums: Sequence[dict[str, float]], *, rank: int, world: int) -> Meter:
        """One that goes on in this process from the sums of each process of an earlier job.

        If there are as many processes now, each goes on from its own, to the bit.
        """
        if len(sums) == world:
            return cls.of([sums[rank]])
        return cls.of(sums if rank == 0 else [])

    def add(self, value: float, loss: Loss, labels: Tensor) -> None:
        """Take in one batch; ``value`` is ``loss.total`` as a number."""
        n = len(labels)
        right = float((loss.logits.argmax(1) == labels).sum())
        parts = {name: n * float(part) for name, part in loss.parts.items()}
        for name, amount in {_IMAGES: n, "loss": n * value, "accuracy": right, **parts}.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

    @property
    def loss(self) -> float:
        """Mean loss so far, in this process."""
        return self.sums["loss"] / max(self.sums[_IMAGES], 1)

    @property
    def accuracy(self) -> float:
        """Accuracy so far, in this process, in [0, 1]."""
        return self.sums["accuracy"] / max(self.sums[_IMAGES], 1)

    def means(self, shard: Shard) -> dict[str, float]:
        """All means, over the images of all processes."""
        together = self.of(shard.gather(self.sums)).sums
        images = together.pop(_IMAGES)
        return {name: value / images for name, value in together.items()}
