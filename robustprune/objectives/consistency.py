"""A clean loss plus how far a prediction moves: what TRADES and stability training share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustprune.objectives.base import Loss

if TYPE_CHECKING:
    from torch import Tensor


def consistency(logits: Tensor, moved: Tensor, labels: Tensor, beta: float) -> Loss:
    """CE(p, y) + β·KL(p ‖ q), each a mean over the batch, differentiated through p and q.

    Args:
        logits: of p, on the clean images: ``(n, classes)``; they are the loss's logits.
        moved: of q, on the perturbed images: same shape.
        labels: ``(n,)``, int64.
        beta: weight of the divergence.

    Returns:
        The loss with the parts ``natural`` and ``robust``.
    """
    from torch.nn import functional as F

    natural = F.cross_entropy(logits, labels)
    robust = F.kl_div(
        F.log_softmax(moved, dim=1),
        F.log_softmax(logits, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    parts = {"natural": natural.detach(), "robust": robust.detach()}
    return Loss(natural + beta * robust, logits, parts)
