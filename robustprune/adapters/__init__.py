"""Robustness libraries, each behind one door: nothing else imports them."""

from __future__ import annotations

import importlib
from types import ModuleType

from robustprune.errors import MissingDependencyError

SETUP = "robustprune setup"
"""The command that installs `LIBRARIES`."""
LIBRARIES = {"torchattacks": "torchattacks", "auto_LiRPA": "auto-LiRPA"}
"""Those that `pip` cannot resolve beside the others: the distribution by the module's name."""


def load(module: str) -> ModuleType:
    """Import one of `LIBRARIES`.

    Raises:
        MissingDependencyError: it cannot be imported; the message holds the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{LIBRARIES[module]} cannot be imported ({error}). Install it with\n    {SETUP}\n"
            "or without its own requirements, which pin old versions, by hand:\n"
            f"    pip install --no-deps {LIBRARIES[module]}"
        ) from error
