"""What an option's text is read as."""

from __future__ import annotations

import argparse
from pathlib import Path

from robustprune.arithmetic import number
from robustprune.errors import UsageError
from robustprune.paths import usable

MLFLOW = "mlflow:"
"""Stands before the id or the name of a run that an MLflow store holds."""


def real(text: str) -> int | float:
    """A number, or arithmetic such as 2/255."""
    try:
        value = number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}") from None
    if value is None:
        raise argparse.ArgumentTypeError(f"expected a number such as 0.25 or 2/255, got '{text}'")
    return value


def positive(text: str) -> int:
    """A whole number from 1 on, or arithmetic such as 1e4 that gives one."""
    try:
        value = number(text)
    except ValueError:
        value = None
    if value is None or value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got '{text}'")
    return int(value)


def path(text: str) -> Path:
    """A path that the system takes; there need be nothing there."""
    try:
        return usable(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error}") from None


def run(text: str) -> str:
    """A path like that, or what `tracking` has: ``mlflow:`` and a name."""
    if not text.startswith(MLFLOW):
        path(text)
    return text


def names(text: str) -> list[str]:
    """Names with commas between them, at least one."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("expected names with commas between them, got none")
    return found
