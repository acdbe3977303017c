"""The torchattacks library: every attack of it, by its own name and arguments.

Images are in [0, 1]. The network is attacked in eval mode and gets the mode of each of its
modules back. Random starts draw from the global generator, which the caller forks.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from robustprune.adapters.library import load
from robustprune.errors import UsageError, nearest
from robustprune.modes import eval_mode

if TYPE_CHECKING:
    from torch import Tensor, nn

NORMS = {"linf": "Linf", "l2": "L2"}
"""The library's names of our norms."""
MOST_CLASSES = 10
"""What to state as ``n_classes`` at most. It only sets the number of target classes, one fewer;
the official AutoAttack has 9 of them however many classes there are."""


class Traits(NamedTuple):
    """What kind of attack it is.

    Attributes:
        radius: the argument that bounds its perturbations, if any does.
        norm: ``linf`` or ``l2`` for a bound that has one norm only.
        minimum_norm: it promises no bound, but looks for something else, mostly a small norm.
    """

    radius: str | None
    norm: str | None
    minimum_norm: bool


def perturb(
    attack: str, model: nn.Module, images: Tensor, labels: Tensor | None = None, **arguments: Any
) -> Tensor:
    """The images that an attack of the library makes of ``images``.

    Args:
        attack: the class's name in torchattacks, e.g. ``PGD``.
        model: maps images in [0, 1] to logits ``(n, classes)``.
        images: ``(n, channels, height, width)`` in [0, 1].
        labels: ``(n,)``, int64; attacks that need none ignore them.
        **arguments: the attack's own, e.g. ``eps=8/255, alpha=2/255, steps=10``.

    Returns:
        Perturbed images of the same shape, detached. Whether they lie in a ball is for the
        caller to check: minimum-norm attacks know no bound.

    Raises:
        MissingDependencyError: torchattacks is not installed.
        UsageError: there is no such attack, or it has no such argument.
    """
    import torch

    check_arguments(attack, arguments)
    # half precision rounds small steps and gradients away, which weakens an attack
    with eval_mode(model), torch.autocast(images.device.type, enabled=False):
        build = getattr(load("torchattacks"), attack)
        perturbed: Tensor = build(_contiguous(model), **arguments)(images.contiguous(), labels)
    return perturbed.detach()


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
    """What the library's AutoAttack makes of images, with a number of steps of our choice.

    The library fixes it at 10, the official implementation at 100 (Croce, Hein 2020, Sec. 5).

    Args:
        model: maps images in [0, 1] to at least 4 logits (3 for ``rand``).
        images: ``(n, channels, height, width)`` in [0, 1].
        labels: ``(n,)``, int64.
        norm: of the ball.
        eps: the ball's radius.
        version: which ensemble.
        steps: gradient steps of each APGD and FAB run.
        num_classes: number of logits.
        seed: of the random starts; the global generator is reseeded with it.
    """
    with eval_mode(model):
        ensemble = load("torchattacks").AutoAttack(
            _contiguous(model),
            norm=NORMS[norm],
            eps=eps,
            version=version,
            n_classes=min(num_classes, MOST_CLASSES),
            seed=seed,
        )
        for attack in ensemble._autoattack.attacks:
            if hasattr(attack, "steps"):
                attack.steps = steps
        perturbed: Tensor = ensemble(images.contiguous(), labels)
    return perturbed.detach()


def traits(attack: str) -> Traits:
    """What kind of attack ``attack`` is.

    Raises:
        UsageError: there is no such attack.
    """
    radius = next((name for name in _RADII if takes_argument(attack, name)), None)
    one_norm = radius is not None and not takes_argument(attack, "norm")
    norm = ("l2" if attack in _L2 else "linf") if one_norm else None
    return Traits(radius, norm, minimum_norm=radius is None or attack == "FAB")


def attack_names() -> list[str]:
    """Every attack of the installed torchattacks, sorted."""
    library = load("torchattacks")
    return sorted(
        name
        for name, item in vars(library).items()
        if inspect.isclass(item)
        and issubclass(item, library.attack.Attack)
        and item.__module__.startswith("torchattacks.attacks.")
    )


def takes_argument(attack: str, argument: str) -> bool:
    """Whether an attack's constructor has an argument of this name."""
    return argument in _parameters(attack)


def check_arguments(attack: str, arguments: dict[str, Any]) -> None:
    """Raise a `UsageError` that names the nearest valid ones if the attack lacks an argument."""
    parameters = _parameters(attack)
    for argument in arguments:
        if argument not in parameters:
            hint = nearest(argument, parameters)
            raise UsageError(f"torchattacks.{attack} has no argument '{argument}'.{hint}")


@cache
def _parameters(attack: str) -> list[str]:
    names = attack_names()
    if attack not in names:
        same = [name for name in names if name.lower() == attack.lower()]
        hint = f" Did you mean '{same[0]}'?" if same else nearest(attack, names)
        raise UsageError(f"torchattacks has no attack '{attack}'.{hint}")
    constructor = getattr(load("torchattacks"), attack).__init__
    return [name for name in inspect.signature(constructor).parameters if name not in _OWN]


def _contiguous(model: nn.Module) -> nn.Module:
    from robustprune.adapters.layout import ContiguousGradients

    if all(parameter.is_contiguous() for parameter in model.parameters()):
        return model
    return ContiguousGradients(model)


_OWN = ("self", "model")
_RADII = ("eps", "max_epsilon")
_L2 = ("PGDL2", "PGDRSL2")  # the others with a radius and without a norm are ℓ∞ attacks
