"""One of several processes that work on one job, each on its share, and how they agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from robustprune.errors import PeerError

T = TypeVar("T")


def _alone(value: Any) -> list[Any]:
    return [value]


def _own(value: Any) -> Any:
    return value


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
    gather: Callable[[Any], list[Any]] = _alone
    broadcast: Callable[[Any], Any] = _own

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def lead(self, work: Callable[[], T]) -> T:
        """Let the main process do something; all get what it gives.

        Raises:
            PeerError: it raised, and this is another process.
        """
        if self.world == 1:
            return work()
        if not self.is_main:
            done, result = self.broadcast(None)
            if not done:
                raise PeerError(0)
            return result  # type: ignore[no-any-return]
        try:
            result = work()
        except BaseException:
            self.broadcast((False, None))
            raise
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
