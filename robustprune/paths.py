"""Paths that people write: asked about once, where they are read, whatever is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustprune.errors import UsageError
from robustprune.messages import shown


def usable(path: str | Path) -> Path:
    """The path, once the system says that it could be one; there need be nothing there.

    Raises:
        UsageError: it is empty, no UTF-8 text, too long, leads around in a circle of links or
            through a folder that may not be entered, or holds a NUL.
    """
    text, flaw = str(path), ""
    try:
        text.encode()
        os.stat(text)
    except UnicodeEncodeError:
        flaw = "it is not UTF-8"
    except ValueError:
        flaw = "it holds a NUL character"
    except (FileNotFoundError, NotADirectoryError):  # for whoever looks for something there
        flaw = "" if text else "it is empty"
    except OSError as error:
        flaw = reason(error)
    if flaw:
        raise UsageError(f"{shown(path)} is no path that can be used: {flaw}. Name another.")
    return Path(path)


def reason(error: OSError) -> str:
    """The system's words about a path, as part of a sentence."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


@contextmanager
def told(what: str, remedy: str) -> Iterator[None]:
    """Turn what the system says about a path inside into a `UsageError`.

    Args:
        what: was tried, e.g. ``cannot read the images``.
        remedy: what to do, a sentence.
    """
    try:
        yield
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        raise UsageError(f"{what}: {where}{reason(error)}. {remedy}") from None
