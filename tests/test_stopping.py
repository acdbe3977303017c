from __future__ import annotations

import os
import signal

import pytest

from robustprune.stopping import orderly, stoppable

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_interrupts_at_once(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), stoppable():
        send(number)


def work(seen: list[bool], *numbers: signal.Signals) -> None:
    """Orderly work that gets some signals and looks whether it is to stop after each."""
    with stoppable(), orderly() as asked:
        seen.append(asked.arrived)
        for number in numbers:
            send(number)
            seen.append(asked.arrived)


@pytest.mark.parametrize("number", SIGNALS)
def test_orderly_work_is_told_and_comes_to_its_end(number: signal.Signals) -> None:
    seen: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        work(seen, number)
    assert seen == [False, True]
    work(seen)


def test_the_second_stop_interrupts_orderly_work() -> None:
    seen: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        work(seen, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert seen == [False, True]


def test_a_stop_does_not_outlive_the_work_that_it_was_for() -> None:
    with stoppable():
        with pytest.raises(KeyboardInterrupt), orderly():
            send(signal.SIGINT)
        with orderly() as asked:
            assert not asked.arrived
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stoppable():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_job_in_the_background_goes_on_ignoring_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
