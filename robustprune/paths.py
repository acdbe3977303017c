"""Paths that people write: asked about once, where they are read, whatever is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustprune.errors import UsageError


def usable(path: str | Path) -> Path:
    """The path, once the system says that it could be one; there need be nothing there.

    Raises:
        UsageError: it is empty, no UTF-8 text, too long, leads around in a circle of links or
            through a folder that may not be entered, or holds a NUL.
    """
    if flaw := _flaw(str(path)):
        from robustprune.sentences import shown  # pydantic comes with it, and --help need not wait

        raise UsageError(f"{shown(path)} is no path that can be used: {flaw}. Name another.")
    return Path(path)


def _flaw(text: str) -> str:
    if not text:
        return "it is empty"
    if "\0" in text:
        return "it holds a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "it is not UTF-8"
    try:
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):  # for whoever looks for something there
        return ""
    except OSError as error:
        return reason(error)
    return ""


def reason(error: OSError) -> str:
    """What the system says of a path, as part of a sentence."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


@contextmanager
def told(what: str, remedy: str) -> Iterator[None]:
    """Turn what the system says of a path inside into a `UsageError`.

    Args:
        what: was tried, e.g. ``cannot read the images``.
        remedy: what to do, a sentence.
    """
    try:
        yield
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        raise UsageError(f"{what}: {where}{reason(error)}. {remedy}") from None
