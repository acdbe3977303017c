from __future__ import annotations

import pytest

from robustprune.errors import PeerError, UsageError
from robustprune.shard import Shard
from tests.threads import each


def test_one_process_is_alone() -> None:
    shard = Shard()
    assert shard.is_main
    assert shard.gather(7) == [7]
    assert shard.broadcast(7) == 7
    assert shard.lead(lambda: 7) == shard.together(lambda: 7) == 7


def test_what_the_main_process_does_all_get() -> None:
    assert each(3, lambda shard: shard.lead(lambda: shard.rank + 10)) == [10, 10, 10]


def test_an_error_of_the_main_process_stops_all_and_is_told_once() -> None:
    def fail() -> None:
        raise OSError("no")

    first, *others = each(3, lambda shard: shard.lead(fail))
    assert isinstance(first, OSError)
    assert all(isinstance(other, PeerError) and "process 0" in str(other) for other in others)


def test_each_process_gets_its_own_result() -> None:
    assert each(3, lambda shard: shard.together(lambda: shard.rank)) == [0, 1, 2]


@pytest.mark.parametrize("faulty", [{1}, {1, 2}, {0, 1, 2}])
def test_a_fault_of_some_stops_all_and_the_first_tells(faulty: set[int]) -> None:
    def work(shard: Shard) -> None:
        if shard.rank in faulty:
            raise UsageError(f"in {shard.rank}")

    results = each(3, lambda shard: shard.together(lambda: work(shard)))
    told = [str(error) for error in results if isinstance(error, UsageError)]
    assert told == [f"in {min(faulty)}"]
    assert sum(isinstance(error, PeerError) for error in results) == 2
