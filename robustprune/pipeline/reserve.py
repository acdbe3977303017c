"""Room on the disk that a run sets aside, so that a full disk costs it no epoch."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from robustprune.errors import UsageError
from robustprune.files import FULL

_CHUNK = 1 << 20
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Reserve:
    """A file that is given up when a write finds no room.

    Args:
        path: of the file; one that a killed process left is replaced.
        size: bytes that the writes of one moment need: a stage's state or a network, and what
            belongs to them.

    Attributes:
        used: whether the file had to be given up.

    Raises:
        UsageError: there is no room for it.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self.used = path, False
        self.release()
        try:
            _allocate(path, size)
        except OSError as error:
            self.release()
            if error.errno not in FULL:
                raise
            raise UsageError(
                f"{path.parent}: {FULL[error.errno]}, there is no room for a reserve of "
                f"{size / 1e6:,.1f} MB. Make room, or name a folder on another disk with --out."
            ) from None

    def write(self, work: Callable[[], None]) -> None:
        """Do ``work``, which writes; if the disk is full, do it again in the reserve's place.

        Raises:
            OSError: it cannot be written, or there is no room without the reserve either.
        """
        try:
            work()
        except OSError as error:
            if error.errno not in FULL or self.used:
                raise
            self.used = True
            self.release()
            work()

    def release(self) -> None:
        """Give the room back."""
        self._path.unlink(missing_ok=True)


def _allocate(path: Path, size: int) -> None:
    """Make a file whose blocks are taken, where the system can do so without writing them."""
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:  # macOS and Windows have no such call
            _fill(path, size)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _fill(path, size)


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, _CHUNK):
            file.write(bytes(min(_CHUNK, size - start)))
        file.flush()
        os.fsync(file.fileno())
