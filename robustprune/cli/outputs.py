"""Files that a command writes where the user says."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustprune.errors import UsageError

_REMEDY = "Name another file."


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file it was that could not be written, and what to do."""
    try:
        yield
    except FileExistsError:  # where a folder was to be made
        raise UsageError(f"cannot write {path}: {os.strerror(errno.ENOTDIR)}. {_REMEDY}") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}. {_REMEDY}") from None
