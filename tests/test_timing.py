from __future__ import annotations

from collections.abc import Callable

from robustprune.timing import alternate, passes, ratio


class Engine:
    """Passes that take what they are told to, the first of a turn ten times as long."""

    def __init__(self, name: str, turns: list[tuple[str, int]], speed: Callable[[], float]) -> None:
        self.name, self.turns, self.speed = name, turns, speed

    def __call__(self, count: int) -> list[float]:
        self.turns.append((self.name, count))
        return [10 * self.speed(), *(self.speed() for _ in range(count - 1))]


def test_sides_take_turns_of_equal_length_and_the_first_pass_of_a_turn_does_not_count() -> None:
    turns: list[tuple[str, int]] = []
    sides = {
        "slow": Engine("slow", turns, lambda: 0.04),
        "fast": Engine("fast", turns, lambda: 0.01),
    }
    times = alternate(sides, rounds=3, seconds=2.0)
    assert times == {"slow": [0.04] * 3, "fast": [0.01] * 3}
    assert turns[-6:] == [("slow", 6), ("fast", 21)] * 3
    assert ratio(times, "slow", "fast") == 4


def test_a_side_that_takes_longer_than_a_turn_has_one_pass() -> None:
    turns: list[tuple[str, int]] = []
    times = alternate({"one": Engine("one", turns, lambda: 0.5)}, rounds=2, seconds=1.0)
    assert times == {"one": [5.0, 5.0]}
    assert turns == [("one", 1)] * 3


def test_a_ratio_is_that_within_rounds() -> None:
    """A machine that is half as fast in one round changes nothing."""
    times = {"a": [2.0, 4.0, 2.0], "b": [1.0, 2.0, 1.0]}
    assert (ratio(times, "a", "b"), ratio(times, "b", "a")) == (2, 0.5)


def test_each_pass_is_a_call() -> None:
    calls = []
    found = passes(lambda: calls.append(1))(4)
    assert len(calls) == len(found) == 4
    assert min(found) >= 0
