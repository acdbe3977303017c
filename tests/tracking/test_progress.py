from __future__ import annotations

import io

import pytest

from robustprune.tracking import Console
from robustprune.tracking.progress import Whole, Work, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


WORKS = [
    Work("dense", "pretrain", 10),
    Work("dense", "pgd", 100, judges=True),
    Work("hydra-0.1", "prune", 20, "hydra"),
    Work("hydra-0.1", "finetune", 10, "hydra"),
    Work("hydra-0.1", "pgd", 100, judges=True),
    Work("rigl-0.1", "train", 10, "rigl"),
    Work("rigl-0.1", "pgd", 100, judges=True),
]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def whole(clock: Clock) -> Whole:
    return Whole(WORKS, clock=clock)


def go(whole: Whole, clock: Clock, network: str, name: str, units: int, each: float) -> None:
    clock.now += 1000  # between two pieces of work: nobody's
    whole.begin(network, name)
    clock.now += units * each
    whole.advance(units)


def test_steps_of_each_kind_count_by_their_own_speed(whole: Whole, clock: Clock) -> None:
    go(whole, clock, "dense", "pretrain", 10, 1.0)
    go(whole, clock, "dense", "pgd", 100, 0.1)
    go(whole, clock, "hydra-0.1", "prune", 10, 3.0)
    # prune 10 × 3; finetune and train at the mean of 10 × 1 and 10 × 3; judged twice, 10 s each
    left = 30 + 10 * 2 + 10 + 10 * 2 + 10
    assert whole.line() == f"network 2 of 3 · {100 * 50 / (50 + left):.0f} % · 2 min left"
    assert whole.share == pytest.approx(50 / (50 + left))
    go(whole, clock, "hydra-0.1", "finetune", 10, 2.0)
    assert whole.seconds(WORKS[2], 1) == 3.0
    assert whole.seconds(WORKS[3], 1) == 2.0


def test_before_the_first_judgement_the_time_left_is_a_lower_bound(
    whole: Whole, clock: Clock
) -> None:
    assert whole.line() == "network 1 of 3"
    go(whole, clock, "dense", "pretrain", 5, 1.0)
    assert whole.line() == "network 1 of 3 · over 45 s left"


def test_validation_between_epochs_is_time_of_the_stage(whole: Whole, clock: Clock) -> None:
    whole.begin("dense", "pretrain")
    clock.now += 5
    whole.advance(5)
    clock.now += 5
    whole.begin("dense", "pretrain", done=5)
    clock.now += 5
    whole.advance(5)
    assert whole.seconds(WORKS[0]) == 15.0


def test_what_was_done_earlier_is_not_left_and_tells_no_speed(whole: Whole, clock: Clock) -> None:
    whole.begin("hydra-0.1", "prune", done=15)
    clock.now += 2
    whole.advance(2)
    assert whole.seconds(WORKS[2]) == 20.0
    assert whole.line() == "network 2 of 3 · over 23 s left"  # 3 + 10 + 10 steps


def test_a_stage_that_ends_early_is_over(whole: Whole, clock: Clock) -> None:
    go(whole, clock, "dense", "pretrain", 10, 1.0)
    go(whole, clock, "dense", "pgd", 100, 0.1)
    go(whole, clock, "hydra-0.1", "prune", 2, 1.0)
    go(whole, clock, "hydra-0.1", "finetune", 10, 1.0)
    assert whole.line().endswith("30 s left")  # judged twice, and train


def test_work_of_no_run_is_not_counted(whole: Whole, clock: Clock) -> None:
    whole.begin("other", "prune")
    assert whole.line() == "network 1 of 3"


def test_a_run_is_not_all_done_before_its_end(whole: Whole, clock: Clock) -> None:
    for work in WORKS[:-1]:
        go(whole, clock, work.network, work.name, work.units, 1000.0)
    go(whole, clock, "rigl-0.1", "train", 10, 1000.0)
    go(whole, clock, "rigl-0.1", "pgd", 99, 1.0)
    assert " · 99 % · " in whole.line()


def test_steps_of_what_is_not_part_of_the_run_are_nobodys(whole: Whole, clock: Clock) -> None:
    go(whole, clock, "dense", "pretrain", 10, 1.0)
    share = whole.share
    go(whole, clock, "dense", "unheard of", 10, 100.0)
    assert (whole.share, whole.seconds(WORKS[0], 1)) == (share, 1.0)
    go(whole, clock, "dense", "pgd", 100, 0.1)
    assert whole.seconds(WORKS[1], 1) == pytest.approx(0.1)


def test_a_log_file_has_a_line_an_epoch_with_the_time_left_of_the_run(
    whole: Whole, clock: Clock
) -> None:
    file = io.StringIO()
    console = Console(file=file)
    console.whole = whole
    with console.progress("dense pretrain 1/2", 5, part=("dense", "pretrain", 0)) as bar:
        clock.now += 5
        bar.advance(5)
    (line,) = file.getvalue().splitlines()
    assert line.startswith("dense pretrain 1/2  5/5  ")
    assert line.endswith("  network 1 of 3 · over 45 s left")


def test_a_terminal_shows_the_run_below_the_bar_while_it_moves(
    whole: Whole, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = Terminal()
    console = Console(file=file)
    console.whole = whole
    with console.progress("dense pretrain 1/2", 5, part=("dense", "pretrain", 0)) as bar:
        clock.now += 5
        bar.advance(5)
    *_, shown, stays = file.getvalue().splitlines()
    assert "network 1 of 3 · over 45 s left" in file.getvalue()
    assert "network" not in stays.rpartition("dense pretrain")[2], shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3540, "59 min"), (3600, "1 h")],
        *[(7800, "2 h 10 min"), (86399, "1 d"), (273_600, "3 d 4 h")],
    ],
)
def test_a_duration_is_told_in_two_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
