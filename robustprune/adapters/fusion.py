"""Loss fusion: one bound on the cross-entropy itself, in place of one bound a class.

Source: Xu et al. 2020 (arXiv 2002.12920), Sec. 3.3. Bounding the loss inside auto-LiRPA's graph
takes a gather that it cannot trace, so the same relaxation is written out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.adapters.bounds import Bounds

NARROW = 1e-6
"""Width below which an interval's chord is taken to be its tangent."""


def cross_entropy_bound(
    bounds: Bounds, model: nn.Module, images: Tensor, labels: Tensor, *, eps: float
) -> Tensor:
    """Upper bounds on log Σ_j exp(d_j) over the box, d_j = f(x')_j − f(x')_y: ``(n,)``.

    With intervals of the d_j from IBP, each exp lies below its chord there, and the logarithm
    below its tangent at a point s: one linear function of the logits, which CROWN-IBP bounds in a
    single backward pass. In narrow boxes that beats the loss of CROWN-IBP's margins, because the
    classes are bounded together; where intervals are wide chords are loose, and it nears IBP's.

    Args:
        bounds: of ``model``.
        model: see `Bounds.margins`, as for the others.
        images: ``(n, channels, height, width)`` in [0, 1].
        labels: y, ``(n,)``, int64.
        eps: radius of the ℓ∞ ball; [0, 1] pixel range.
    """
    contrasts = bounds.contrasts(labels).to(images)  # rows f_y - f_j = -d_j
    high, low = (-bound for bound in bounds.interval(model, images, contrasts, eps=eps))
    shift = high.detach().amax(1, keepdim=True).clamp_min(0)  # or exp overflows
    top, bottom = (high - shift).exp(), (low - shift).exp()
    wide = high - low > NARROW
    slope = torch.where(wide, (top - bottom) / (high - low).clamp_min(NARROW), top)
    intercept = top - slope * (high - shift)
    own = (-shift[:, 0]).exp() + intercept.sum(1)  # what does not depend on the image
    s = own + (slope * ((high + low) / 2 - shift)).sum(1)
    row = (slope / s[:, None]).unsqueeze(1) @ contrasts
    linear = -bounds.linear(model, images, row, eps=eps, method="crown_ibp")[:, 0]
    constant = (own - (slope * shift).sum(1) - s) / s
    return shift[:, 0] + s.log() + linear + constant
