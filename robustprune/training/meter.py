"""Running means of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator
    from torch import Tensor

    from robustprune.objectives import Loss


class Meter:
    """Means over the images seen: loss, accuracy, and the objective's named parts."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {"loss": 0.0, "accuracy": 0.0}
        self._images = 0

    def add(self, value: float, loss: Loss, labels: Tensor) -> None:
        """Take in one batch; ``value`` is ``loss.total`` as a number."""
        n = len(labels)
        self._images += n
        self._sums["loss"] += n * value
        self._sums["accuracy"] += float((loss.logits.argmax(1) == labels).sum())
        for name, part in loss.parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + n * float(part)

    @property
    def loss(self) -> float:
        """Mean loss so far, in this process."""
        return self._sums["loss"] / max(self._images, 1)

    @property
    def accuracy(self) -> float:
        """Accuracy so far, in this process, in [0, 1]."""
        return self._sums["accuracy"] / max(self._images, 1)

    def means(self, accelerator: Accelerator | None) -> dict[str, float]:
        """All means, over all processes if an accelerator is given."""
        sums = [*self._sums.values(), float(self._images)]
        if accelerator is not None and accelerator.num_processes > 1:
            here = torch.tensor(sums, dtype=torch.float64, device=accelerator.device)
            sums = accelerator.reduce(here, reduction="sum").tolist()
        return {name: value / sums[-1] for name, value in zip(self._sums, sums[:-1], strict=True)}
