"""Which arguments the attacks of the torchattacks library have, and what they may be.

Nothing here needs torch until an attack is asked for by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from robustprune.adapters.library import load
from robustprune.errors import UsageError, nearest
from robustprune.radii import check_radius, check_reach, default_step

NORMS = {"linf": "Linf", "l2": "L2"}
"""The library's names of our norms."""
MOST_CLASSES = 10
"""What to state as ``n_classes`` at most. It only sets the number of target classes, one fewer;
the official AutoAttack has 9 of them however many classes there are."""
COUNTS = (
    *("steps", "num_iter_set", "nb_iter", "max_iterations", "n_queries", "n_restarts", "restarts"),
    *("binary_search_steps", "nb_sample", "noise_batch_size", "eot_iter", "N", "m"),
)
"""Arguments that say how long an attack tries: whole numbers, with more of which it is stronger."""
ONE_BY_ONE = ("DeepFool", "JSMA", "OnePixel", "Pixle", "SparseFool")
"""Attacks that take the images of a batch one after the other, some for a minute each."""
AUTOATTACK_STEPS = 10
"""Of each APGD and FAB run in the library's AutoAttack, which has no argument for it."""


class Traits(NamedTuple):
    """What kind of attack it is.

    Attributes:
        radius: the argument that bounds its perturbations, if any does.
        norm: ``linf`` or ``l2`` for a bound that has one norm only.
        minimum_norm: it promises no bound, but looks for something else, mostly a small norm.
        step: the argument for the length of its steps, if it is bounded and has one.
        steps: the argument for their number, if it has one; without it, there is one step.
    """

    radius: str | None
    norm: str | None
    minimum_norm: bool
    step: str | None = None
    steps: str | None = None


def traits(attack: str) -> Traits:
    """What kind of attack ``attack`` is.

    Raises:
        UsageError: there is no such attack.
    """
    radius = next((name for name in _RADII if takes_argument(attack, name)), None)
    one_norm = radius is not None and not takes_argument(attack, "norm")
    norm = ("l2" if attack in _L2 else "linf") if one_norm else None
    pairs = _STEPS if radius else ()
    step, steps = next((pair for pair in pairs if takes_argument(attack, pair[0])), (None, None))
    if steps is not None and not takes_argument(attack, steps):
        steps = None
    return Traits(radius, norm, radius is None or attack == "FAB", step, steps)


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
    return argument in defaults(attack)


def check_arguments(attack: str, arguments: Mapping[str, Any]) -> None:
    """Make sure that an attack has these arguments, and that counts among them are counts.

    Raises:
        UsageError: names the argument, and the nearest valid ones if the attack has none such.
    """
    known = defaults(attack)
    for argument, value in arguments.items():
        if argument not in known:
            hint = nearest(argument, known)
            raise UsageError(f"torchattacks.{attack} has no argument '{argument}'.{hint}")
        whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if argument in COUNTS and not whole:
            raise UsageError(
                f"torchattacks.{attack}: {argument} must be a whole number from 1 on; "
                f"got {value!r}."
            )
    few = arguments.get("max_iterations", _LEAST_ITERATIONS) < _LEAST_ITERATIONS
    if attack in ("EADEN", "EADL1") and few and arguments.get("abort_early", True):
        raise UsageError(
            f"torchattacks.{attack} needs max_iterations of at least {_LEAST_ITERATIONS}, or "
            f"abort_early: false; got {arguments['max_iterations']}."
        )


def check_lengths(attack: str, arguments: Mapping[str, Any], *, norm: str) -> None:
    """Make sure that radii, steps and noise among an attack's arguments are in [0, 1] pixels.

    Raises:
        ValueError: names the argument.
    """
    found = traits(attack)
    lengths = {name: norm for name in (found.radius, found.step) if name is not None}
    lengths |= dict.fromkeys(_NOISE.get(attack, ()), "linf")
    for argument in lengths.keys() & arguments.keys():
        value = arguments[argument]
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"args: {argument} must be a number above 0; got {value!r}")
        try:
            check_radius(value, lengths[argument])
        except ValueError as error:
            raise ValueError(f"args: {argument}: {error}") from None


def with_step(attack: str, arguments: Mapping[str, Any], *, eps: float) -> dict[str, Any]:
    """An attack's arguments with the length of its steps: one that reaches the whole ball.

    Raises:
        ValueError: the length that is given does not lead from the ball's middle to its edge.
    """
    found = traits(attack)
    if found.step is None:
        return dict(arguments)
    steps = {**defaults(attack), **arguments}[found.steps] if found.steps else 1
    if found.step not in arguments:
        return {**arguments, found.step: default_step(eps, steps)}
    try:
        check_reach(arguments[found.step], eps=eps, steps=steps)
    except ValueError as error:
        raise ValueError(f"args: {found.step}: {error}") from None
    return dict(arguments)


@cache
def defaults(attack: str) -> Mapping[str, Any]:
    """The arguments that an attack has, with the library's own values.

    Raises:
        UsageError: there is no such attack.
    """
    names = attack_names()
    if attack not in names:
        same = [name for name in (*names, *_NO_ATTACKS) if name.lower() == attack.lower()]
        if same and (why := _NO_ATTACKS.get(same[0])):
            raise UsageError(f"torchattacks.{same[0]} {why}.")
        hint = f" Did you mean '{same[0]}'?" if same else nearest(attack, names)
        raise UsageError(f"torchattacks has no attack '{attack}'.{hint}")
    constructor = getattr(load("torchattacks"), attack).__init__
    parameters = inspect.signature(constructor).parameters
    return {name: p.default for name, p in parameters.items() if name not in _OWN}


_NO_ATTACKS = {
    "MultiAttack": "is no attack of its own: it tries others one after the other. Name each as an "
    "evaluator with a label; images.parquet says of every image which of them it withstands",
    "LGV": "attacks other networks by way of this one, after having trained copies of it on the "
    "training images, which evaluators do not get. Use an attack on the network itself, e.g. BIM",
}
_OWN = ("self", "model")
_RADII = ("eps", "max_epsilon")
_L2 = ("PGDL2", "PGDRSL2")  # the others with a radius and without a norm are ℓ∞ attacks
_STEPS = (("alpha", "steps"), ("lr", "nb_iter"))  # by what they are called; SPSA's are Adam's
_NOISE = {"GN": ("std",), "PGDRS": ("noise_sd",), "PGDRSL2": ("noise_sd",)}
_LEAST_ITERATIONS = 10  # of an attack that looks at every tenth part of them
