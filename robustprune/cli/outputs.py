"""Files that a command writes where the user says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustprune.errors import UsageError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file it was that could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}. Name another file: --out."
        ) from None
