"""What every objective is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from robustprune.parts import Part
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn


class Loss(NamedTuple):
    """An objective's value for one batch.

    Attributes:
        total: the scalar to minimise, a mean over the batch, with its graph.
        logits: ``(n, classes)``, for the accuracy that is shown: of the clean images where the
            objective computes them, of the perturbed ones where it does not.
        parts: named scalars for the curves; nothing is differentiated through them.
    """

    total: Tensor
    logits: Tensor
    parts: dict[str, Tensor]


class Objective(Part):
    """A robust loss. Subclass it, register it, and it trains weights and scores alike.

    An instance serves one phase of one network. State goes into private attributes; an objective
    that has any overrides `state_dict` and `load_state_dict`, and it is saved with the phase.
    """

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        """The loss of one batch.

        Args:
            model: maps images in [0, 1] to logits; its train/eval mode must be left as found.
            images: ``(n, channels, height, width)``, float in [0, 1].
            labels: ``(n,)``, int64.
            progress: where the phase is, for ramps.
        """
        raise TypeError(f"{type(self).__name__} must define __call__(model, images, labels, …)")

    def validation_loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, progress: Progress
    ) -> Loss:
        """The loss by which epochs are compared, on images that are not trained on.

        An objective whose state belongs to the training images overrides it.
        """
        return self(model, images, labels, progress)

    @property
    def repeats(self) -> int:
        """Optimizer steps to take on each batch."""
        return 1

    def after_backward(self) -> None:
        """Called between the backward pass and the optimizer's step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a resumed phase needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `merged` gave."""

    def merged(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One state from that of each process that shares the batches, by rank.

        The first one's: an objective whose state belongs to images overrides it.
        """
        return states[0]

    def fresh(self) -> Self:
        """The same objective without the state that it has gathered."""
        return type(self)(**dict(self))
