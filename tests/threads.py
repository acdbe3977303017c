"""Several processes of a job, for tests: threads of this one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from robustprune.shard import Shard


def shards(world: int, *, timeout: float = 60) -> list[Shard]:
    """The shards of a job whose processes are threads; a thread that stays away breaks the job."""
    barrier = threading.Barrier(world, timeout=timeout)
    values: list[Any] = [None] * world

    def gather(rank: int, value: Any) -> list[Any]:
        values[rank] = value
        barrier.wait()
        found = list(values)
        barrier.wait()
        return found

    def shard(rank: int) -> Shard:
        return Shard(
            rank,
            world,
            gather=lambda value: gather(rank, value),
            broadcast=lambda value: gather(rank, value)[0],
        )

    return [shard(rank) for rank in range(world)]


def each(world: int, work: Callable[[Shard], Any]) -> list[Any]:
    """What ``work`` gives, or raises, in each of ``world`` processes, which are threads here."""
    results: list[Any] = [None] * world

    def run(shard: Shard) -> None:
        try:
            results[shard.rank] = work(shard)
        except Exception as error:
            results[shard.rank] = error

    threads = [threading.Thread(target=run, args=(shard,)) for shard in shards(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results
