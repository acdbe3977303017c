"""Cross-entropy of the worst logits that certified bounds admit: what certified training shares."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from robustprune.objectives.base import Objective
from robustprune.objectives.ramp import Ramp
from robustprune.radii import Radius
from robustprune.types import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.adapters.bounds import Bounds


class CertifiedTraining(Objective):
    """The base of objectives that minimise a certified upper bound on the cross-entropy.

    The clean logits come from an ordinary forward pass in the mode that the network is in, which
    is where BatchNorm learns its statistics; the bounds that follow are about the network in eval
    mode with the statistics of that moment. The accuracy shown is the clean one.
    """

    eps: Radius = Field(2 / 255, ge=0)
    """Radius of the ℓ∞ ball; [0, 1] pixel range."""
    ramp: Ramp = Ramp()
    """How eps grows."""

    _bounds: Any = PrivateAttr(None)
    _network: Any = PrivateAttr(None)

    def radius(self, progress: Progress) -> float:
        """The ramp's eps."""
        return self.eps * self.ramp.factor(progress)

    def bounds(self, model: nn.Module, images: Tensor) -> Bounds:
        """The graph of ``model``, built at its first batch and kept."""
        from robustprune.adapters.bounds import Bounds

        known = self._network is not None and self._network() is model
        if not (known and self._bounds.fits(images)):
            self._bounds, self._network = Bounds(model, images), weakref.ref(model)
        return self._bounds  # type: ignore[no-any-return]


def robust_cross_entropy(margins: Tensor) -> Tensor:
    """Cross-entropy of the logits 0 for the true class and −margin for every other, batch mean.

    No image in the ball has a larger one: cross-entropy falls with each margin, and these bound
    all of them from below. Source: Wong, Kolter 2018, Thm. 2.

    Args:
        margins: lower bounds on ``f(x')_y - f(x')_j``, ``(n, classes - 1)``.
    """
    import torch
    from torch.nn import functional as F

    truth = margins.new_zeros(len(margins), 1)
    target = torch.zeros(len(margins), dtype=torch.int64, device=margins.device)
    return F.cross_entropy(torch.cat([truth, -margins], dim=1), target)
