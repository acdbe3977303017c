"""Search spaces: what a study may try for one option of a recipe, written ``KEY=SPACE``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robustprune.arithmetic import number
from robustprune.errors import UsageError, nearest
from robustprune.recipe.document import dump
from robustprune.recipe.reading import NotYamlError, read_yaml

Refuse = Callable[[str], UsageError]
RANGES = ("log", "uniform", "int")
"""Kinds of ranges: evenly in the logarithm, evenly, and whole numbers; both ends belong to them."""
_DIGITS = 4  # of a number that is drawn
_BETWEEN = 0.3719  # of the way through a range: no round number


@dataclass(frozen=True)
class Space:
    """The values that an option may have, as texts that ``--set KEY=`` takes.

    Attributes:
        key: of the recipe, as ``--set`` names it.
        text: the space as it was written.
        kind: one of `RANGES`, or ``choices``.
        low: the range's lower end.
        high: the upper one.
        choices: a list's values.
    """

    key: str
    text: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def points(self, count: int) -> list[str]:
        """So many values of a range with the ends among them, evenly spaced; all of a list."""
        if self.choices:
            return list(self.choices)
        shares = [index / max(count - 1, 1) for index in range(count)]
        return list(dict.fromkeys(map(self._at, shares)))

    @property
    def probes(self) -> list[str]:
        """Values that are tried out on the recipe before anything is trained."""
        return list(self.choices) or [self._at(share) for share in (0.0, _BETWEEN, 1.0)]

    def holds(self, value: Any) -> bool:
        """True if a range has the value in it."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = self.kind != "int" or value == int(value or 0)
        return not self.choices and is_number and whole and self.low <= value <= self.high

    def shortened(self, value: float) -> str:
        """A number of the range with few digits."""
        return self._text(min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high))

    def _at(self, share: float) -> str:
        """The value at a share of the way through the range."""
        if share in (0.0, 1.0):
            return self._text(self.high if share else self.low)
        if self.kind == "log":
            return self.shortened(
                math.exp(_between(math.log(self.low), math.log(self.high), share))
            )
        value = _between(self.low, self.high, share)
        return self._text(round(value)) if self.kind == "int" else self.shortened(value)

    def _text(self, value: float) -> str:
        return str(int(value)) if self.kind == "int" else repr(float(value))


def parse_space(assignment: str) -> Space:
    """Read ``KEY=log(a,b)``, ``uniform(a,b)``, ``int(a,b)`` or ``KEY=[a,b,c]``.

    Raises:
        UsageError: it is none of them, or a range is empty.
    """
    key, equals, text = (part.strip() for part in assignment.partition("="))

    def refuse(reason: str) -> UsageError:
        return UsageError(f"--over {assignment}: {reason}")

    if not equals or not all(part.strip() for part in key.split(".")):
        raise refuse("expected KEY=SPACE, e.g. 'prune.optimizer.lr=log(0.1,1000)'.")
    if text.startswith("["):
        return Space(key, text, "choices", choices=_choices(text, refuse))
    shape = re.fullmatch(r"(\w+)\((.*)\)", text, re.DOTALL)
    if shape is None:
        raise refuse("expected log(a,b), uniform(a,b), int(a,b) or a list [a,b,c] behind the =.")
    kind, ends = shape[1], [part.strip() for part in shape[2].split(",")]
    if kind not in RANGES:
        raise refuse(f"there is no range '{kind}'.{nearest(kind, RANGES)}")
    if len(ends) != 2:
        raise refuse(f"{kind} takes two numbers, e.g. {kind}(1,10); got {len(ends)}.")
    low, high = (_number(part, refuse) for part in ends)
    if not low < high:
        raise refuse(f"the first number must be below the second one; got {low:g} and {high:g}.")
    if kind == "log" and low <= 0:
        raise refuse(f"a logarithm needs numbers above 0; got {low:g}. Use uniform(a,b).")
    if kind == "int" and (low != int(low) or high != int(high)):
        raise refuse("int takes whole numbers. Use uniform(a,b), or log(a,b).")
    return Space(key, text, kind, float(low), float(high))


def _choices(text: str, refuse: Refuse) -> tuple[str, ...]:
    try:
        values = read_yaml(text).values
    except NotYamlError as error:
        raise refuse(str(error)) from None
    if not isinstance(values, list) or len(values) < 2:
        raise refuse("a list takes two values or more, e.g. [sgd, adam].")
    texts = tuple(dump(value, flow=True) for value in values)
    if len(set(texts)) < len(texts):
        raise refuse("a value stands twice. Take one of them out.")
    return texts


def _number(text: str, refuse: Refuse) -> float:
    try:
        value = number(text)
    except ValueError as error:
        raise refuse(f"{error}.") from None
    if value is None:
        raise refuse(f"expected a number such as 0.1, 1e-3 or 8/255; got '{text}'.")
    return value


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)
