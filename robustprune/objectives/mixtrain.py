"""MixTrain: certified training on a few random samples of a batch, now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from robustprune.objectives import register
from robustprune.objectives.base import Loss
from robustprune.objectives.certified import CertifiedTraining, robust_cross_entropy
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

START = 0.1
"""The robust term's weight until the ramp ends."""
GROWTH, EVERY = 2.5, 5
"""What the weight is multiplied by, and after how many epochs, from then on."""


@register("mixtrain")
class MixTrain(CertifiedTraining):
    """CE(f(x), y) + w·CE of the worst logits of k samples. Source: Wang et al. 2018.

    The source's *stochastic robust approximation* (arXiv 1811.02625): the second term, whose
    symbolic bound is dear, is taken on ``samples`` random images of a batch with a probability.
    The bound is CROWN's, the same relaxation as the source's and the fastest way to it here.
    The curve ``robust`` counts a step without the term as 0.
    """

    samples: int = Field(5, ge=1)
    """k: images of a batch that are bounded, in each process that shares it. HYDRA takes 5 for
    CNN-small, 1 for CNN-large."""
    probability: float = Field(0.8, gt=0, le=1)
    """Of taking the robust term in a step."""
    most: float = Field(50.0, gt=0)
    """What the weight w grows to: from 0.1 it is multiplied by 2.5 every 5 epochs, counted from the
    end of the ramp, or from the start of a stage without one."""

    def weight(self, progress: Progress) -> float:
        """w, from the epochs finished."""
        past = max(progress.epoch - self.ramp.end(progress), 0)
        return min(START * float(GROWTH ** (past // EVERY)), self.most)

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """The clean loss, and the robust one where it is this step's turn."""
        import torch
        from torch.nn import functional as F

        logits = model(images)
        natural = F.cross_entropy(logits, labels)
        eps = self.radius(progress)
        turn = float(torch.rand(())) < self.probability
        if not turn or eps == 0:
            zero = torch.zeros_like(natural)
            return Loss(natural, logits, {"natural": natural.detach(), "robust": zero})
        chosen = torch.randperm(len(images))[: self.samples].to(images.device)
        some, their = images[chosen], labels[chosen]
        margins = self.bounds(model, some).margins(model, some, their, eps=eps, method="crown")
        robust = robust_cross_entropy(margins)
        total = natural + self.weight(progress) * robust
        return Loss(total, logits, {"natural": natural.detach(), "robust": robust.detach()})
