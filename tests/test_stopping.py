from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustprune.stopping import PARENT, orderly, stoppable

from .jobs import environment

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


JOB = """
import time
from pathlib import Path
from robustprune.stopping import PARENT, end_with_parent, stoppable
import os
try:
    with stoppable():
        end_with_parent()
        assert PARENT not in os.environ, "what this process starts does not end with its parent"
        Path("begun").touch()
        time.sleep(60)
except KeyboardInterrupt:
    Path("stopped").touch()
"""


def seen(file: Path, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not file.exists():
        time.sleep(0.05)
    return file.exists()


def test_a_job_is_asked_to_stop_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    line = f"{PARENT}=$$ '{sys.executable}' job.py & wait"
    parent = subprocess.Popen(["sh", "-c", line], cwd=tmp_path, env=environment())
    assert seen(tmp_path / "begun")
    assert not seen(tmp_path / "stopped", 0.5)
    parent.kill()
    parent.wait()
    assert seen(tmp_path / "stopped")
