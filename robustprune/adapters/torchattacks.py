"""The torchattacks library at work on a network: images in [0, 1], modes as they were.

The network is attacked in eval mode and gets the mode of each of its modules back. Random starts
draw from the global generator, which the caller forks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustprune.adapters import load
from robustprune.adapters.attack_arguments import MOST_CLASSES, NORMS, check_arguments
from robustprune.adapters.unbounded import is_memory
from robustprune.errors import UsageError, first_line
from robustprune.train_mode import attack_mode


def perturb(
    attack: str, model: nn.Module, images: Tensor, labels: Tensor | None = None, **arguments: Any
) -> Tensor:
    """The images that an attack of the library makes of ``images``.

    JSMA aims at the class after an image's own, of as many classes as the network has (the
    library: of ten). An image is left as it is where the attack makes no numbers of it, as several
    do where the gradient is zero and they divide by its length.

    Args:
        attack: the class's name in torchattacks, e.g. ``PGD``.
        model: maps images in [0, 1] to logits ``(n, classes)``, in any precision.
        images: ``(n, channels, height, width)`` in [0, 1].
        labels: ``(n,)``, int64; attacks that need none ignore them.
        **arguments: the attack's own, e.g. ``eps=8/255, alpha=2/255, steps=10``.

    Returns:
        Perturbed images of the same shape, detached. Whether they lie in a ball is for the
        caller to check: minimum-norm attacks know no bound.

    Raises:
        MissingDependencyError: torchattacks is not installed.
        UsageError: there is no such attack, it has no such argument, or it cannot do with these
            arguments, images or this network.
    """
    _check(attack, *((k, tuple(v) if isinstance(v, list) else v) for k, v in arguments.items()))
    with _attackable(attack, model, images, arguments) as network:
        made = getattr(_library(), attack)(network, **arguments)
        if attack == "JSMA":
            with torch.no_grad():
                classes = network(images[:1]).shape[1]
            made.set_mode_targeted_by_function(lambda _, own: (own + 1) % classes, quiet=True)
        perturbed: Tensor = made(images.contiguous(), labels).detach()
    numbers = perturbed.isfinite().flatten(1).all(1)
    return torch.where(numbers[:, None, None, None], perturbed, images)


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Literal["linf", "l2"],
    eps: float,
    version: Literal["standard", "plus", "rand"],
    steps: int,
    num_classes: int,
    seed: int,
) -> Tensor:
    """The images that the library's AutoAttack makes, with a number of steps of our choice.

    The library fixes it at 10, the official implementation at 100 (Croce, Hein 2020, Sec. 5).

    Args:
        model: maps images in [0, 1] to at least 4 logits (3 for ``rand``), in any precision.
        images: ``(n, channels, height, width)`` in [0, 1].
        labels: ``(n,)``, int64.
        norm: of the ball.
        eps: the ball's radius.
        version: which ensemble.
        steps: gradient steps of each APGD and FAB run.
        num_classes: number of logits.
        seed: of the random starts; the global generator is reseeded with it.

    Raises:
        UsageError: it cannot do with these images or this network.
    """
    arguments = {"norm": NORMS[norm], "eps": eps, "version": version}
    with _attackable("AutoAttack", model, images, arguments) as network:
        ensemble = _library().AutoAttack(
            network, **arguments, n_classes=min(num_classes, MOST_CLASSES), seed=seed
        )
        for attack in ensemble._autoattack.attacks:
            if hasattr(attack, "steps"):
                attack.steps = steps
        perturbed: Tensor = ensemble(images.contiguous(), labels)
    return perturbed.detach()


@contextmanager
def _attackable(
    attack: str, model: nn.Module, images: Tensor, arguments: Mapping[str, Any]
) -> Iterator[Attackable]:
    """The network as the library expects it; what the library cannot do becomes a `UsageError`.

    A network that cannot take the images on its own raises what it raises, and so does a machine
    whose memory is too small.
    """
    with attack_mode(model, images.device.type):
        network = Attackable(model, images)
        try:
            yield network
        except Exception as error:
            if isinstance(error, UsageError) or network.failed or is_memory(error):
                raise
            classes = f" and {network.classes} classes" if network.classes else ""
            given = "".join(f", {key}: {value}" for key, value in arguments.items())
            raise UsageError(
                f"torchattacks.{attack} cannot do with images of "
                f"{' × '.join(map(str, images.shape[1:]))}{classes}{given}. It stops with "
                f"{type(error).__name__}: {first_line(error)}. Use other arguments, or another "
                "attack."
            ) from error


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """A network's logits, ``(n, classes)``, in the images' precision whatever the network's is.

    Images reach a network of bfloat16 weights rounded to bfloat16, as all that follows.
    """
    first = next(model.parameters(), images)
    found: Tensor = model(images.to(first.dtype))
    return found.to(images.dtype)


class Attackable(nn.Module):
    """The same network, in the images' precision and with contiguous gradients of the images.

    Libraries take ``view`` of gradients, which fails where the weights are channels-last, and
    write logits into tensors of their own.

    Args:
        model: in the mode that it is to be attacked in.
        images: those that are to be attacked, ``(n, channels, height, width)``.

    Attributes:
        classes: how many logits it has given; 0 before it has given any.
        failed: it could not take images of the shape that it is to be attacked on, so that the
            fault is not the attack's.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # libraries restore the mode that they find here
        if next(model.parameters(), None) is None:  # libraries ask one for the device
            self.device_of = nn.Parameter(images.new_empty(0), requires_grad=False)
        self.classes, self.failed = 0, False
        self._shape = images.shape[1:]
        self._contiguous = all(parameter.is_contiguous() for parameter in model.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits, ``(n, classes)``."""
        if images.requires_grad and not self._contiguous:
            images = images.view_as(images)  # a hook on a leaf would stay behind on it
            images.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        try:
            found = logits(self.model, images)
        except Exception:
            self.failed = images.shape[1:] == self._shape
            raise
        self.classes = found.shape[1]
        return found


@cache
def _check(attack: str, *arguments: tuple[str, Any]) -> None:
    """`check_arguments`, once for what is asked for at every step."""
    check_arguments(attack, dict(arguments))


@cache
def _library() -> ModuleType:
    return load("torchattacks")
