"""Types of what is typed: from an option's text to its value."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from pathlib import Path

from robustprune.arithmetic import number
from robustprune.errors import UsageError
from robustprune.paths import usable


def real(text: str) -> int | float:
    """A number, or arithmetic such as 2/255."""
    try:
        value = number(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{error}") from None
    if value is None:
        raise ArgumentTypeError(f"expected a number such as 3 or 2/255, got '{text}'")
    return value


def positive(text: str) -> int:
    """A whole number from 1 on, or arithmetic such as 1e4 that gives one."""
    value = real(text)
    if value < 1 or value != int(value):
        raise ArgumentTypeError(f"expected a whole number from 1 on, got '{text}'")
    return int(value)


def above_zero(text: str) -> int | float:
    """A number above 0, or arithmetic that gives one."""
    if (value := real(text)) <= 0:
        raise ArgumentTypeError(f"expected a number above 0, got '{text}'")
    return value


def positives(text: str) -> list[int]:
    """Whole numbers from 1 on with commas between them, at least one."""
    return [positive(word) for word in names(text)]


def path(text: str) -> Path:
    """A path that the system takes; there need be nothing there."""
    try:
        return usable(text)
    except UsageError as error:
        raise ArgumentTypeError(f"{error}") from None


def recipe(text: str) -> Path:
    """The file of a recipe, or of one that comes with the package, by its name."""
    from robustprune.recipe.packaged import find  # the package's `__init__` reads YAML

    try:
        return find(text)
    except UsageError as error:
        raise ArgumentTypeError(f"{error}") from None


def names(text: str) -> list[str]:
    """Names with commas between them, at least one."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise ArgumentTypeError("expected names with commas between them, got none")
    return found


def part(text: str) -> tuple[str, dict[str, str]]:
    """A part's name and options, ``packed:values=fp16``."""
    name, _, options = text.partition(":")
    if "=" in name or re.search(r"=[^,]*:\w+=", options):
        right = re.sub(r"[:,](?=\w+=)", ",", text).replace(",", ":", 1)
        raise ArgumentTypeError(f"expected NAME:KEY=VALUE,KEY=VALUE; got '{text}'. Write {right}")
    fields = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise ArgumentTypeError(f"expected NAME:KEY=VALUE,…, got '{text}': '{option}' has no =")
        fields[key.strip()] = value.strip()
    return name, fields
