"""One of several processes that work on one job, each on its share, and how they agree.

Code above this file is the same in every process: it computes alike everywhere, and leaves what
only one process may do to methods that are marked `on_main_process`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from robustprune.errors import PeerError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """This process's place among the processes of a job. The default is a job of one.

    All processes call the same methods in the same order; each waits for the others there.

    Attributes:
        rank: number of this process, from 0. Process 0 is the main one: it alone writes files,
            talks to MLflow and prints.
        world: number of processes.
        gather: from a value of each process to the list of all of them, by rank, on each process.
        broadcast: from a value of each process to the main one's, on each process.
    """

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    broadcast: Callable[[Any], Any] = lambda value: value
    _leading: list[bool] = field(default_factory=list, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """True for the process that writes and prints."""
        return self.rank == 0

    def lead(self, work: Callable[[], T]) -> T:
        """Let the main process do something; all get what it returns, which must be picklable.

        Inside of ``work`` another `lead` is part of it.

        Raises:
            PeerError: it raised, and this is another process.
        """
        if self.world == 1 or self._leading:
            return work()
        if not self.is_main:
            done, result = self.broadcast(None)
            if not done:
                raise PeerError(0)
            return result  # type: ignore[no-any-return]
        self._leading.append(True)
        try:
            result = work()
        except BaseException:
            self.broadcast((False, None))
            raise
        finally:
            self._leading.clear()
        return self.broadcast((True, result))[1]  # type: ignore[no-any-return]

    def together(self, work: Callable[[], T]) -> T:
        """Let every process do something that may fail in some of them; then it fails in all.

        Raises:
            BaseException: that of ``work``, if it failed in no process before this one. An
                interruption is always raised where it arrived.
            PeerError: it failed in a process before this one, or only in others.
        """
        if self.world == 1:
            return work()
        fault: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # an interruption too: the others are waiting
            fault = error
        failed = [rank for rank, wrong in enumerate(self.gather(fault is not None)) if wrong]
        if not failed:
            return result
        if fault is not None and (failed[0] == self.rank or not isinstance(fault, Exception)):
            raise fault
        raise PeerError(failed[0]) from fault

    def in_turn(self, work: Callable[[], T]) -> T:
        """Let every process do something that may download, on each machine one before the others.

        Raises:
            BaseException: as `together`.
        """
        if self.world == 1:
            return work()
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        done = self.together(lambda: [work()] if first else [])
        return self.together(lambda: done[0] if done else work())


def on_main_process(method: Callable[P, T]) -> Callable[P, T]:
    """Decorate a method of an object that has a ``shard``: its `Shard.lead` does the work."""

    @wraps(method)
    def run(*args: P.args, **options: P.kwargs) -> T:
        shard: Shard = args[0].shard  # type: ignore[attr-defined]
        return shard.lead(lambda: method(*args, **options))

    return run
