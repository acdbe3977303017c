"""The judges of an attack: the attack proposes images; the network and the ball decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustprune.adapters.torchattacks import logits
from robustprune.types import Norm

Attack = Callable[[Tensor, Tensor], Tensor]
Accept = Callable[[Tensor, Tensor], Tensor]

ABSOLUTE, RELATIVE = 1e-5, 1e-6  # what float32 adds to a distance, and to a pixel, in passing


class Outcome(NamedTuple):
    """The results of a batch of n images.

    Attributes:
        robust: ``(n,)``, boolean: classified rightly, untouched and under every attack.
        fooled: ``(n,)``, boolean: classified rightly when untouched, and then no more.
        perturbed: ``(n, channels, height, width)``: what fooled the network, the image itself
            where nothing did.
    """

    robust: Tensor
    fooled: Tensor
    perturbed: Tensor


@torch.no_grad()
def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return which images the network classifies rightly: ``(n,)``, boolean.

    A logit that is not finite counts as wrong: NaN would be class 0 otherwise.
    """
    found = logits(model, images)
    return (found.argmax(1) == labels) & found.isfinite().all(1)


@torch.no_grad()
def num_classes(model: nn.Module, images: Tensor) -> int:
    """The number of logits that the network gives."""
    return logits(model, images[:1]).shape[1]


def survivors(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    accept: Accept,
    *,
    rounds: int = 1,
) -> Outcome:
    """Attack what is still classified rightly, round by round, and see what is left.

    The work falls with the images broken: neither images misclassified from the start nor those
    broken in an earlier round are attacked. An attack's own claim of success is not asked for.

    Args:
        model: in eval mode.
        images: ``(n, channels, height, width)`` in [0, 1].
        labels: ``(n,)``, int64.
        attack: from some of the images and their labels to perturbed images.
        accept: from perturbed images and their originals to a boolean ``(n,)``: which count.
        rounds: how often to attack; for attacks with a random start.
    """
    robust = correct(model, images, labels)
    fooled, adversarial = torch.zeros_like(robust), images.clone()
    for _ in range(rounds):
        (left,) = robust.nonzero(as_tuple=True)
        if not len(left):
            break
        perturbed = attack(images[left], labels[left])
        counts = accept(perturbed, images[left])
        won = counts & ~correct(model, perturbed, labels[left])
        adversarial[left[won]] = perturbed[won]
        robust[left[won]], fooled[left[won]] = False, True
    return Outcome(robust, fooled, adversarial)


def distance(perturbed: Tensor, images: Tensor, norm: Norm) -> Tensor:
    """The length of each image's perturbation: ``(n,)``, in units of the [0, 1] pixel range."""
    delta = (perturbed - images).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(delta, dim=1)


def excess(perturbed: Tensor, images: Tensor, *, norm: Norm, eps: float) -> Tensor:
    """The most by which each image breaks a rule: ``(n,)``, at most 0 for a fair one.

    The rules are the ball of radius ``eps`` and the pixel range [0, 1], each with a tolerance for
    float32. An image with a NaN or an infinity breaks them by infinity.
    """
    pixels = perturbed.flatten(1)
    outside = distance(perturbed, images, norm) - eps * (1 + RELATIVE)
    beyond = torch.stack([outside, -pixels.amin(1), pixels.amax(1) - 1]).amax(0)
    return torch.where(pixels.isfinite().all(1), beyond - ABSOLUTE, torch.inf)


def inside(perturbed: Tensor, images: Tensor, *, norm: Norm, eps: float) -> Tensor:
    """Return which images are in the ball, in [0, 1] and finite: ``(n,)``, boolean."""
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
