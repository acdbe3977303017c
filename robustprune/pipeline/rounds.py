"""Work that is dealt out to the processes of a job: each does a piece of its own a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from robustprune.errors import PeerError
from robustprune.shard import Shard

T = TypeVar("T")


def rounds(own: Iterator[T], shard: Shard) -> Iterator[list[T]]:
    """Do a piece of this process's work in each round, until no process has any left.

    Args:
        own: does a piece each time. It may end earlier than another process's.
        shard: this process's place.

    Returns:
        What the processes gave in each round, by rank, without those that had nothing left.

    Raises:
        PeerError: another process has failed, and says itself why.
    """
    while found := [piece for some in _each(shard, lambda: [*islice(own, 1)]) for piece in some]:
        yield found


def _each(shard: Shard, work: Callable[[], T]) -> list[T]:
    """What ``work`` gives in each process, by rank. Where it fails, the first process tells."""
    if shard.world == 1:
        return [work()]
    fault = result = None
    try:
        result = work()
    except BaseException as error:  # an interruption too: the others are waiting
        fault = error
    outcomes = shard.gather((fault is None, result))
    failed = [rank for rank, (done, _) in enumerate(outcomes) if not done]
    if not failed:
        return [found for _, found in outcomes]
    if fault is not None and (failed[0] == shard.rank or not isinstance(fault, Exception)):
        raise fault
    raise PeerError(failed[0]) from fault
