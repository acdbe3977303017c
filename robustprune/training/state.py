"""The state of a stage between two steps: what a resumed run goes on from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustprune.errors import UsageError
from robustprune.files import replacing


@dataclass
class StageState:
    """Everything that the next step depends on. At an epoch's start, randomness is none of it.

    Attributes:
        begun: whether the method's `begin` is done.
        epoch: epochs finished.
        step: optimizer steps finished.
        batch: batches finished of the epoch under way.
        model: the network's state dict, scores and masks included.
        initial: the masks that turnover is counted against; None before the first.
        optimizer: the optimizer's.
        method: the method's own.
        generator: of the method's draws.
        scale: of the losses, in fp16; else empty.
        processes: of each process, by rank: the objective's own state and, within an epoch, the
            sums so far, the state of its global generators, and the norms' statistics.
        history: the metrics of each finished epoch.
        best: the state dict with the lowest validation loss, where the stage selects it.
        best_loss: that loss.
    """

    begun: bool = False
    epoch: int = 0
    step: int = 0
    batch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    initial: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    generator: Tensor | None = None
    scale: dict[str, float] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_loss: float = math.inf

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        with replacing(path) as temporary, temporary.open("wb") as file:
            try:
                torch.save(vars(self), file)
            except RuntimeError as error:  # torch hides what the disk said behind its own words
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    @classmethod
    def load(cls, path: Path) -> StageState | None:
        """The state in ``path``, or None if there is none. Nothing in the file is executed.

        Raises:
            UsageError: the file is damaged or something else.
        """
        if not path.exists():
            return None
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise UsageError(
                f"{path} is not a readable stage state ({type(error).__name__}). "
                "Delete it to train that stage again."
            ) from error
