"""How far a perturbed image is from its original, and whether it is a fair one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustprune.types import Norm

if TYPE_CHECKING:
    from torch import Tensor

ABSOLUTE, RELATIVE = 1e-5, 1e-6  # what float32 adds to a distance, and to a pixel, in passing


def distance(perturbed: Tensor, images: Tensor, norm: Norm) -> Tensor:
    """The length of each image's perturbation: ``(n,)``, in units of the [0, 1] pixel range.

    Args:
        perturbed: ``(n, channels, height, width)``.
        images: the originals, same shape.
        norm: largest absolute entry (``linf``) or Euclidean length (``l2``).
    """
    import torch

    delta = (perturbed - images).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(delta, dim=1)


def excess(perturbed: Tensor, images: Tensor, *, norm: Norm, eps: float) -> Tensor:
    """By how much each image breaks the rules worst: ``(n,)``, at most 0 for a fair one.

    The rules are the ball of radius ``eps`` and the pixel range [0, 1], each with a tolerance for
    float32. An image with a NaN or an infinity breaks them by infinity.
    """
    import torch

    pixels = perturbed.flatten(1)
    beyond = torch.stack(
        [
            distance(perturbed, images, norm) - eps * (1 + RELATIVE),
            -pixels.amin(1),
            pixels.amax(1) - 1,
        ]
    ).amax(0)
    return torch.where(pixels.isfinite().all(1), beyond - ABSOLUTE, torch.inf)


def inside(perturbed: Tensor, images: Tensor, *, norm: Norm, eps: float) -> Tensor:
    """Which images are in the ball, in [0, 1] and finite: ``(n,)``, boolean."""
    return excess(perturbed, images, norm=norm, eps=eps) <= 0


def check_ball(
    perturbed: Tensor, images: Tensor, *, norm: Norm, eps: float, evaluator: str
) -> Tensor:
    """`inside`, for attacks that are bound to stay there: all true, or an error.

    Raises:
        RuntimeError: some image is outside; names the evaluator, the norm and the largest excess.
    """
    outside = excess(perturbed, images, norm=norm, eps=eps)
    if (outside > 0).any():
        raise RuntimeError(
            f"evaluator '{evaluator}': the attack left the {norm} ball of radius {eps:g} or the "
            f"pixel range [0, 1] on {int((outside > 0).sum())} of {len(outside)} images, by up to "
            f"{outside.max().item():.3g}. Its numbers would be unfair; none are reported."
        )
    return outside <= 0
