"""The libraries that `pip` cannot resolve beside the others, and the line that installs each."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import NamedTuple

from robustprune.errors import MissingDependencyError


class _Library(NamedTuple):
    distribution: str
    why: str


LIBRARIES = {
    "torchattacks": _Library("torchattacks", "it pins an old version of requests"),
    "auto_LiRPA": _Library("auto-LiRPA", "it pins an old version of torch"),
}
"""By the name they are imported by; both run with newer versions than they ask for."""


def load(module: str) -> ModuleType:
    """Import one of `LIBRARIES`.

    Raises:
        MissingDependencyError: it cannot be imported; the message holds the line that installs it.
    """
    library = LIBRARIES[module]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{library.distribution} cannot be imported ({error}). Install it with exactly\n"
            f"    pip install --no-deps {library.distribution}\n"
            f"without its own requirements: {library.why}, and runs with new."
        ) from error
