"""Words that every floor shares."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

Norm = Literal["linf", "l2"]


class Progress(NamedTuple):
    """Where a stage is; ramps and schedules are functions of it."""

    epoch: int = 0
    """Epochs finished, from 0."""
    step: int = 0
    """Optimizer steps finished, from 0."""
    fraction: float = 0.0
    """Share of the stage's steps finished, in [0, 1)."""
    epochs: int = 1
    """Epochs of the whole stage; ``fraction * epochs`` are finished, parts included."""
    stage: str = "pretrain"
    """Its name."""


class Threat(NamedTuple):
    """The moves of an image that an adversary may make: in a ball, within [0, 1]."""

    norm: Norm
    eps: float
    """Radius of the ball; [0, 1] pixel range."""


class Images(NamedTuple):
    """Labelled images held in memory."""

    images: Tensor
    """``(n, channels, height, width)``, float in [0, 1] or uint8 in [0, 255]."""
    labels: Tensor
    """``(n,)``, int64."""


class Batch(NamedTuple):
    """Test images to be judged, with the number that their random draws are named by."""

    number: int
    """Number of the batch among those of the test set, from 0."""
    images: Tensor
    """``(n, channels, height, width)``, float in [0, 1]."""
    labels: Tensor
    """``(n,)``, int64."""


class Interval(NamedTuple):
    """A confidence interval of a fraction, both ends in [0, 1]."""

    low: float
    high: float
