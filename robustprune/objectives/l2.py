"""Gradient ascent in the ℓ2 ball, for attacks that the torchattacks library does not have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def ascend(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    images: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """Normalised gradient ascent in the ℓ2 balls around images.

    Args:
        loss: maps images to the scalar to raise, a sum of one term an image.
        start: where to begin, same shape as ``images``.
        images: the balls' centres, ``(n, channels, height, width)`` in [0, 1].
        eps: the balls' radius; [0, 1] pixel range.
        step_size: how far each image moves in a step. One without a gradient stays.
        steps: number of steps.

    Returns:
        Images of the same shape, in the ball and in [0, 1], detached. The caller puts the network
        in `attack_mode`.
    """
    perturbed = start
    for _ in range(steps):
        perturbed = perturbed.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(perturbed), perturbed)
        delta = perturbed.detach() + step_size * unit(gradient) - images
        delta = delta * (eps / _length(delta).clamp_min(1e-12)).clamp_max(1)
        perturbed = (images + delta).clamp(0, 1)  # moves each pixel towards its centre at most
    return perturbed.detach()


def unit(x: Tensor) -> Tensor:
    """Each image's ``x`` scaled to length 1; zeros stay zeros.

    The largest entry is divided out first: the squares of a confident network's gradients are
    too small for float32.
    """
    largest = x.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = x / torch.where(largest == 0, torch.ones_like(largest), largest)
    return scaled / _length(scaled).clamp_min(1)  # at least 1 wherever it is not 0


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return length
