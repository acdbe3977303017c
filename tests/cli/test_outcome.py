from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from robustprune import errors
from robustprune.cli import main
from robustprune.cli.outcome import DIED, FOLDER, Outcome, outcome_of


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process is number 1 of a job that has been started anew twice."""
    handler = signal.getsignal(signal.SIGTERM)  # one that fails ignores it from then on
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def left(outcome: Outcome, *, attempt: int, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RANK", str(rank))
        patch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        outcome.write()


def test_only_the_last_attempt_counts(attempt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Outcome.read(attempt, rank=1) is None
    first = Outcome(1, "MemoryError", "first")
    left(first, attempt=0, rank=1, monkeypatch=monkeypatch)
    assert Outcome.read(attempt, rank=1) == first
    echo = replace(first, kind="PeerError", echo=True)
    left(echo, attempt=1, rank=0, monkeypatch=monkeypatch)
    assert Outcome.read(attempt, rank=1) is None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(2, "DivergedError", "error: the loss is nan"),
        Outcome(1, "SoundnessError", "error: soundness alarm"),
        Outcome(130, "InterruptedRun", "interrupted", echo=True),
    ],
)
def test_what_would_happen_again_is_not_tried_again(
    outcome: Outcome, attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(outcome, attempt=0, rank=0, monkeypatch=monkeypatch)
    assert main(["run", "no-such-recipe.yaml"]) == outcome.code
    assert Outcome.read(attempt, rank=1) == outcome


@pytest.mark.parametrize("kind", ["MemoryError", "PeerError", DIED])
def test_an_accident_is_tried_again(
    kind: str, attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(Outcome(1, kind, "an accident"), attempt=1, rank=0, monkeypatch=monkeypatch)
    assert Outcome.earlier() is None


def test_a_lost_connection_is_the_echo_of_another_process_s_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
    assert outcome_of(lost).echo is False  # of a process on its own it is a fault
    monkeypatch.setenv("WORLD_SIZE", "2")
    for error in (lost, errors.PeerError(1)):
        assert (outcome_of(error).code, outcome_of(error).echo) == (1, True)


UNUSABLE = "a/b: not for you. Name another path, or mend that."


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((n, UNUSABLE) for n in (errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)),
        (errno.ENOSPC, "the disk is full (a/b). Make room and resume."),
        (errno.EDQUOT, "the disk quota is used up (a/b). Make room and resume."),
        (errno.EROFS, "the disk has become read-only (a/b). Mend that and resume."),
    ],
)
def test_what_only_shows_below_a_path_is_the_users_error_too(number: int, text: str) -> None:
    outcome = outcome_of(OSError(number, "Not for you", "a/b"))
    assert (outcome.code, outcome.echo, outcome.text) == (2, False, f"error: {text}")
