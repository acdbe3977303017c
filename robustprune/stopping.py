"""A request to stop, by Ctrl-C or by a scheduler, and work that ends in order before it does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PARENT = "ROBUSTPRUNE_PARENT"
"""The variable that holds the process id of the one that a job is to end with."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTE = b"\nstopping as soon as this step is done; once more stops at once\n"


class _Request:
    """A request to stop that has arrived while work was under way that ends in order."""

    orderly = False
    arrived = False


@contextmanager
def stoppable() -> Iterator[None]:
    """Take SIGINT and SIGTERM, for a block, as requests to stop.

    Inside `orderly` the first one is noted. Otherwise, and the second time, it raises
    `KeyboardInterrupt` at once. One that this process was started to ignore, as a script's jobs in
    the background ignore Ctrl-C, is ignored. To be called in the main thread.
    """
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _receive) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def orderly() -> Iterator[type[_Request]]:
    """Let a block see to its own end; it is given the request, which may have ``arrived``.

    Raises:
        KeyboardInterrupt: the block has ended without having looked at a request.
    """
    before = _Request.orderly
    _Request.orderly = True
    try:
        yield _Request
        if _Request.arrived:
            raise KeyboardInterrupt
    finally:
        _Request.orderly = before
        _Request.arrived = False


def end_with_parent() -> None:
    """Ask this process to stop once the one that started it has ended, however, if it said so.

    A job would work on unseen after its command was killed, and keep others out of its folder.
    """
    if (parent := os.environ.pop(PARENT, "")) == "":  # processes that this one starts have it
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _receive(number: int, frame: FrameType | None) -> None:
    if not _Request.orderly or _Request.arrived:
        raise KeyboardInterrupt
    _Request.arrived = True
    if "RANK" not in os.environ:  # a launcher stops processes for reasons of its own, and says so
        os.write(2, _NOTE)
