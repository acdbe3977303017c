"""The loop. It never sees a mask: a phase says what is trainable and what to open around a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from robustprune.datasets import Splits
from robustprune.objectives import Objective
from robustprune.shard import Shard
from robustprune.training.phase import Phase
from robustprune.training.phase_run import PhaseRun

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator

    from robustprune.tracking import Console


@dataclass(kw_only=True)
class Trainer:
    """Trains phases of networks of one run.

    With several processes each one calls `run`, and all of them end with the same network.

    Attributes:
        accelerator: device, precision and processes.
        objective: each phase gets a fresh copy.
        data: training images, and validation images or none.
        seed: the recipe's.
        console: where progress is shown.
        on_epoch: called with (phase, epochs finished, history) after an epoch has been saved, in
            the main process only.
        write: does what writes a phase's state, and may do it twice.
        max_steps: cut every phase after so many optimizer steps, and each validation after as many
            batches.
        memory_format: how batches of images are laid out.
        shard: this process among those of the accelerator.
        synchronise: whether BatchNorm takes the statistics of the whole batch; otherwise those of
            this process's images, and the running ones are averaged at the end of each epoch.
    """

    accelerator: Accelerator
    objective: Objective
    data: Splits
    seed: int
    console: Console
    on_epoch: Callable[[Phase, list[dict[str, float]]], None] = lambda phase, history: None
    write: Callable[[Callable[[], None]], None] = lambda work: work()
    max_steps: int | None = None
    memory_format: torch.memory_format = torch.preserve_format
    shard: Shard = field(default_factory=Shard)
    synchronise: bool = True

    def run(self, phase: Phase, model: nn.Module, state_path: Path) -> list[dict[str, float]]:
        """Train ``model`` in place, going on from ``state_path`` if that exists.

        Returns:
            The metrics of each epoch.

        Raises:
            DivergedError: the loss is NaN, infinite or exploding; ``state_path`` holds the last
                good epoch.
            UsageError: ``state_path`` is damaged.
            KeyboardInterrupt: it was asked to stop; ``state_path`` holds everything up to then.
            PeerError: another process failed, and says why.
        """
        return PhaseRun(self, phase, model, state_path).run()

    def steps(self, phase: Phase) -> int:
        """Optimizer steps of a whole phase."""
        assert self.data.train is not None
        batches = self.data.train.steps(phase.batch_size, world=self.shard.world)
        steps = phase.epochs * batches * self.objective.repeats
        return steps if self.max_steps is None else min(steps, self.max_steps)
