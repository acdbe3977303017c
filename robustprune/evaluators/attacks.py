"""What an attack does to a batch. The attack proposes; the network and the ball judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    Attack = Callable[[Tensor, Tensor], Tensor]
    Accept = Callable[[Tensor, Tensor], Tensor]


class Outcome(NamedTuple):
    """What became of a batch of n images.

    Attributes:
        robust: ``(n,)``, boolean: classified rightly, untouched and under every attack.
        fooled: ``(n,)``, boolean: classified rightly when untouched, and then no more.
        perturbed: ``(n, channels, height, width)``: what fooled the network, the image itself
            where nothing did.
    """

    robust: Tensor
    fooled: Tensor
    perturbed: Tensor


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images the network classifies rightly: ``(n,)``, boolean.

    A logit that is not finite counts as wrong: NaN would be class 0 otherwise.
    """
    import torch

    from robustprune.adapters.torchattacks import logits

    with torch.no_grad():
        found = logits(model, images)
    return (found.argmax(1) == labels) & found.isfinite().all(1)


def num_classes(model: nn.Module, images: Tensor) -> int:
    """The number of logits that the network gives."""
    import torch

    from robustprune.adapters.torchattacks import logits

    with torch.no_grad():
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
    import torch

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
