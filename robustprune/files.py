"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
"""The operating system's errors about a disk that takes no more."""


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes its place when the block ends.

    If the block raises, ``path`` is as it was.

    Args:
        path: the file.
        durable: fsync it, so that it is whole after a power cut, too. That takes milliseconds.

    Raises:
        OSError: it cannot be written, or is something else than a file, such as a device.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "there is something that is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a write does not say to where
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def lock(path: Path, *, wait: bool) -> ExitStack:
    """Lock a file until the returned stack is closed, or the process ends in whatever way.

    Args:
        path: made if it does not exist, and left there.
        wait: for a process that holds it.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        file = held.enter_context(path.open("w", encoding="utf-8"))
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        return held.pop_all()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
