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


@pytest.mark.parametrize("number", SIGNALS)
def test_orderly_work_is_told_and_goes_on(number: signal.Signals) -> None:
    with stoppable(), orderly() as asked:
        assert not asked()
        send(number)
        assert asked()


def test_the_second_stop_interrupts_orderly_work() -> None:
    with stoppable(), orderly():
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_a_stop_does_not_outlive_the_work_that_it_was_for() -> None:
    with stoppable():
        with orderly():
            send(signal.SIGINT)
        with orderly() as asked:
            assert not asked()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stoppable():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
