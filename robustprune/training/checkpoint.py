"""The state of a phase between two steps: what a resumed run goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustprune.errors import UsageError
from robustprune.files import replacing


@dataclass
class PhaseState:
    """Everything that the next step depends on. At an epoch's start, randomness is none of it.

    Attributes:
        epoch: epochs finished.
        step: optimizer steps finished.
        batch: batches finished of the epoch under way.
        model: the network's state dict, scores and masks included.
        optimizer: the optimizer's.
        objective: the objective's own.
        scaler: of the losses, in fp16; else empty.
        history: the metrics of each finished epoch.
        sums: the running sums of the epoch under way, of each process.
        random: the state of the global generators within an epoch; empty at its start.
        best: the state dict with the lowest validation loss, where the phase selects it.
    """

    epoch: int = 0
    step: int = 0
    batch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    sums: list[dict[str, float]] = field(default_factory=list)
    random: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Tensor] | None = None

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
    def load(cls, path: Path) -> PhaseState | None:
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
                f"{path} is not a readable phase state ({type(error).__name__}). "
                "Delete it to train that phase again."
            ) from error
