"""Work that is dealt out to the processes of a job: each does a piece of its own a round."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

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
    while found := _gathered(shard.together(lambda: [*islice(own, 1)]), shard):
        yield found


def _gathered(pieces: list[T], shard: Shard) -> list[T]:
    return [piece for some in shard.gather(pieces) for piece in some]
