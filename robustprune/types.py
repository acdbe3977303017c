"""Words that every floor shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["linf", "l2"]


class Progress(NamedTuple):
    """Where a stage is; ramps and schedules are functions of it.

    Attributes:
        epoch: epochs finished, from 0.
        step: optimizer steps finished, from 0.
        fraction: share of the stage's steps finished, in [0, 1).
        epochs: epochs of the whole stage; ``fraction * epochs`` are finished, parts included.
        stage: its name.
    """

    epoch: int = 0
    step: int = 0
    fraction: float = 0.0
    epochs: int = 1
    stage: str = "pretrain"


class Threat(NamedTuple):
    """What an adversary may do to an image: move it in a ball, within [0, 1].

    Attributes:
        norm: ``linf`` or ``l2``.
        eps: radius of the ball; [0, 1] pixel range.
    """

    norm: Norm
    eps: float


class Images(NamedTuple):
    """Labelled images held in memory.

    Attributes:
        images: ``(n, channels, height, width)``, float in [0, 1] or uint8 in [0, 255].
        labels: ``(n,)``, int64.
    """

    images: Tensor
    labels: Tensor


class Batch(NamedTuple):
    """Test images to be judged, with the number that their random draws are named by.

    Attributes:
        number: of the batch among those of the test set, from 0.
        images: ``(n, channels, height, width)``, float in [0, 1].
        labels: ``(n,)``, int64.
    """

    number: int
    images: Tensor
    labels: Tensor


class Interval(NamedTuple):
    """A confidence interval of a fraction, both ends in [0, 1]."""

    low: float
    high: float
