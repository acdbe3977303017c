"""Work that several processes, threads here, do together round by round."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robustprune.errors import PeerError, UsageError
from robustprune.pipeline.rounds import rounds
from robustprune.shard import Shard

from ..test_shard import each


def pieces(shard: Shard, total: int) -> Iterator[int]:
    yield from range(shard.rank, total, shard.world)


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        (1, [[0], [1], [2], [3], [4]]),
        (2, [[0, 1], [2, 3], [4]]),
        (3, [[0, 1, 2], [3, 4]]),
        (7, [[0, 1, 2, 3, 4]]),
    ],
)
def test_everybody_sees_what_all_have_done_in_each_round(
    world: int, expected: list[list[int]]
) -> None:
    assert each(world, lambda shard: [*rounds(pieces(shard, 5), shard)]) == [expected] * world


def test_where_there_is_nothing_to_do_there_is_no_round() -> None:
    assert each(2, lambda shard: [*rounds(pieces(shard, 0), shard)]) == [[], []]


@pytest.mark.parametrize("faulty", [{0}, {1}, {1, 2}, {0, 1, 2}])
def test_a_fault_in_some_stops_all_and_the_first_tells(faulty: set[int]) -> None:
    def faulty_pieces(shard: Shard) -> Iterator[int]:
        yield 0
        if shard.rank in faulty:
            raise UsageError(f"in {shard.rank}")
        yield 1
        yield 2

    results = each(3, lambda shard: [*rounds(faulty_pieces(shard), shard)])
    told = [str(error) for error in results if isinstance(error, UsageError)]
    assert told == [f"in {min(faulty)}"]
    assert sum(isinstance(error, PeerError) for error in results) == 2


def test_who_has_no_work_left_hears_of_a_fault_too() -> None:
    def late(shard: Shard) -> Iterator[int]:
        yield 0
        if shard.rank == 1:
            raise ValueError("late")

    idle, failed = each(2, lambda shard: [*rounds(late(shard), shard)])
    assert isinstance(failed, ValueError)
    assert isinstance(idle, PeerError)
    assert "process 1" in str(idle)


def test_every_process_that_is_interrupted_is_interrupted() -> None:
    def stopped(shard: Shard) -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    def caught(shard: Shard) -> str:
        try:
            return str([*rounds(stopped(shard), shard)])
        except KeyboardInterrupt:
            return "interrupted"

    assert each(2, caught) == ["interrupted"] * 2
