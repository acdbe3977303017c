"""Tests without a library that is installed."""

import sys

import pytest

from robustprune.adapters import load, torchattacks


def hide(library: str, patch: pytest.MonkeyPatch) -> None:
    """Let whoever uses the library find, through its one door, that it is not there."""
    patch.setitem(sys.modules, library, None)
    if library == "torchattacks":  # which the door keeps, once it was opened
        for name in ("perturb", "autoattack"):
            patch.setattr(torchattacks, name, lambda *arguments, **options: load(library))
