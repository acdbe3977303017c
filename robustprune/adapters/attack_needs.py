"""What an attack of torchattacks needs of network and images, as its code has it (3.5.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robustprune.errors import UsageError


class Needs(NamedTuple):
    """What the attack cannot do without.

    Attributes:
        classes: logits at least.
        channels: of the images; any number if None.
        square: images as high as wide.
    """

    classes: int = 2
    channels: int | None = None
    square: bool = False


_NEEDS = {
    "APGDT": Needs(classes=4),  # its loss ranks four logits
    "AutoAttack": Needs(classes=4),  # APGDT is a part of it
    "DIFGSM": Needs(square=True),  # it pads to width x width
    "PIFGSM": Needs(channels=3),  # its convolutions have three groups
    "PIFGSMPP": Needs(channels=3),
    "Pixle": Needs(square=True),  # it takes columns for rows
    "TIFGSM": Needs(channels=3, square=True),
}
_DLR = Needs(classes=3)  # the loss ranks three logits
_ALWAYS_FIT = 25  # pixels a side


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
        evaluator: for whom.

    Raises:
        UsageError: it cannot; says what it needs.
    """
    needs = _needs(attack, arguments)
    channels, height, width = shape
    size = f"{height} × {width} pixels"
    if classes < needs.classes:
        what, have = f"a network with at least {needs.classes} classes", f"this one has {classes}"
    elif needs.channels not in (None, channels):
        what, have = f"images of {needs.channels} channels", f"these have {channels}"
    elif needs.square and height != width:
        what, have = "images as high as wide", f"these have {size}"
    elif _squares(attack, arguments) and not _squares_fit(height, width, arguments):
        sides = ", ".join(str(n) for n in range(_ALWAYS_FIT) if _squares_fit(n, n, arguments))
        what = (
            f"images that its squares fit into in l2, such as square ones of {sides} or at least "
            f"{_ALWAYS_FIT} pixels a side"
        )
        have = f"these have {size}"
    else:
        return
    named = "".join(
        f" with {key} {arguments[key]}" for key in ("loss", "version") if arguments.get(key)
    )
    raise UsageError(
        f"evaluator '{evaluator}': torchattacks.{attack}{named} needs {what}; {have}. Use another "
        "attack, e.g. {name: pgd} with several restarts."
    )


def _needs(attack: str, arguments: Mapping[str, Any]) -> Needs:
    if arguments.get("loss") == "dlr" or arguments.get("version") == "rand":
        return _DLR
    return _NEEDS.get(attack, Needs())


def _squares(attack: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the attack starts from Square's grid in ℓ2."""
    grid = attack == "Square" or (attack == "AutoAttack" and arguments.get("version") != "rand")
    return grid and arguments.get("norm") == "L2"


def _squares_fit(height: int, width: int, arguments: Mapping[str, Any]) -> bool:
    """Whether Square's first grid in ℓ2 lies in the image, and its first window as well.

    Of more than 24 pixels a side all square images do; of fewer, not all.
    """
    side = height // 5
    if side == 0:
        return False
    first = (height - 5 * side) // 2
    window = max(round(math.sqrt(arguments.get("p_init", 0.8) * height * width)), 3)
    window += 1 - window % 2
    grid = side == 1 or all(first + side * (n // side) <= n for n in (height, width))
    return grid and window <= min(height, width)
