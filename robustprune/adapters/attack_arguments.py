"""Arguments of torchattacks' attacks (3.5.1): which there are, what they may be, what fits them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from robustprune.adapters import load
from robustprune.errors import UsageError, nearest
from robustprune.radii import check_radius, check_reach, default_step

NORMS = {"linf": "Linf", "l2": "L2"}
"""The library's names of our norms."""
MOST_CLASSES = 10
"""The most to state as ``n_classes``. It only sets the number of target classes, one fewer;
the official AutoAttack has 9 of them however many classes there are."""
COUNTS = (
    *("steps", "num_iter_set", "nb_iter", "max_iterations", "n_queries", "n_restarts", "restarts"),
    *("binary_search_steps", "nb_sample", "noise_batch_size", "eot_iter", "N", "m"),
)
"""Arguments that say how long an attack tries: whole numbers, with more of which it is stronger."""
ONE_BY_ONE = ("DeepFool", "JSMA", "OnePixel", "Pixle", "SparseFool")
"""Attacks that take the images of a batch one after the other, some for a minute each."""
AUTOATTACK_STEPS = 10
"""Steps of each APGD and FAB run in the library's AutoAttack, which has no argument for it."""

_NO_ATTACKS = {
    "MultiAttack": "is no attack of its own: it tries others one after the other. Name each as an "
    "evaluator with a label; images.parquet says of every image which of them it withstands",
    "LGV": "attacks other networks by way of this one, after having trained copies of it on the "
    "training images, which evaluators do not get. Use an attack on the network itself, e.g. BIM",
}
_L2 = ("PGDL2", "PGDRSL2")  # the others with a radius and without a norm are ℓ∞ attacks
_NOISE = {"GN": ("std",), "PGDRS": ("noise_sd",), "PGDRSL2": ("noise_sd",)}
_LEAST_ITERATIONS = 10  # of an attack that looks at every tenth part of them
_CLASSES = {"APGDT": 4, "AutoAttack": 4}  # logits that a loss ranks; AutoAttack runs APGDT
_COLOUR = ("PIFGSM", "PIFGSMPP", "TIFGSM")  # their convolutions have three groups
_ALWAYS_FIT = 25  # pixels a side of images that Square's grid and windows fit into
_SQUARE = ("DIFGSM", "Pixle", "TIFGSM")  # they pad to width x width, or take columns for rows


class Traits(NamedTuple):
    """The kind that an attack is of.

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
    """The kind that ``attack`` is of.

    Raises:
        UsageError: there is no such attack.
    """
    known = defaults(attack)
    radius = next((name for name in ("eps", "max_epsilon") if name in known), None)
    norm = ("l2" if attack in _L2 else "linf") if radius and "norm" not in known else None
    pairs = (("alpha", "steps"), ("lr", "nb_iter")) if radius else ()  # SPSA's are Adam's
    step, steps = next((pair for pair in pairs if pair[0] in known), (None, None))
    steps = steps if steps in known else None
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
    """True if an attack's constructor has an argument of this name."""
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
    kind = traits(attack)
    lengths = {name: norm for name in (kind.radius, kind.step) if name is not None}
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
    kind = traits(attack)
    if kind.step is None:
        return dict(arguments)
    steps = {**defaults(attack), **arguments}[kind.steps] if kind.steps else 1
    if kind.step not in arguments:
        return {**arguments, kind.step: default_step(eps, steps)}
    try:
        check_reach(arguments[kind.step], eps=eps, steps=steps)
    except ValueError as error:
        raise ValueError(f"args: {kind.step}: {error}") from None
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
        if same and same[0] in _NO_ATTACKS:
            raise UsageError(f"torchattacks.{same[0]} {_NO_ATTACKS[same[0]]}.")
        hint = f" Did you mean '{same[0]}'?" if same else nearest(attack, names)
        raise UsageError(f"torchattacks has no attack '{attack}'.{hint}")
    constructor = getattr(load("torchattacks"), attack).__init__
    parameters = inspect.signature(constructor).parameters
    return {name: p.default for name, p in parameters.items() if name not in ("self", "model")}


def check_fits(
    attack: str,
    *,
    shape: Sequence[int],
    classes: int,
    arguments: Mapping[str, Any],
    evaluator: str,
) -> None:
    """Make sure that an attack can do with a network and its images.

    Args:
        attack: the class's name in torchattacks.
        shape: of an image: channels, height, width.
        classes: number of the network's logits.
        arguments: the attack's own.
        evaluator: named in the message.

    Raises:
        UsageError: it cannot; says what it needs.
    """
    channels, height, width = shape
    ranks_three = arguments.get("loss") == "dlr" or arguments.get("version") == "rand"
    least = 3 if ranks_three else _CLASSES.get(attack, 2)
    size = f"these have {height} × {width} pixels"
    if classes < least:
        what, have = f"a network with at least {least} classes", f"this one has {classes}"
    elif attack in _COLOUR and channels != 3:
        what, have = "images of 3 channels", f"these have {channels}"
    elif attack in _SQUARE and height != width:
        what, have = "images as high as wide", size
    elif not _squares_fit(attack, height, width, arguments):
        sides = [n for n in range(_ALWAYS_FIT) if _squares_fit(attack, n, n, arguments)]
        fitting = f"{', '.join(map(str, sides))} or at least {_ALWAYS_FIT} pixels a side"
        what = f"images that its squares fit into in l2, such as square ones of {fitting}"
        have = size
    else:
        return
    named = "".join(
        f" with {key} {arguments[key]}" for key in ("loss", "version") if arguments.get(key)
    )
    raise UsageError(
        f"evaluator '{evaluator}': torchattacks.{attack}{named} needs {what}; {have}. Use another "
        "attack, e.g. {name: pgd} with several restarts."
    )


def _squares_fit(attack: str, height: int, width: int, arguments: Mapping[str, Any]) -> bool:
    """True unless Square's first grid in ℓ2, or its first window, does not lie in the image."""
    grid = attack == "Square" or (attack == "AutoAttack" and arguments.get("version") != "rand")
    if not grid or arguments.get("norm") != "L2":
        return True
    side = height // 5
    if side == 0:
        return False
    first = (height - 5 * side) // 2
    window = max(round(math.sqrt(arguments.get("p_init", 0.8) * height * width)), 3)
    window += 1 - window % 2
    fits = side == 1 or all(first + side * (n // side) <= n for n in (height, width))
    return fits and window <= min(height, width)
