from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustprune.cli import main
from robustprune.cli.replies import DIED, FOLDER, Reply


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process is number 1 of a job that has been started anew twice."""
    handler = signal.getsignal(signal.SIGTERM)  # one that replies ignores it from then on
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def left(reply: Reply, *, attempt: int, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RANK", str(rank))
        patch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        reply.leave()


def test_only_the_last_attempt_counts(attempt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Reply.read(attempt, rank=1) is None
    left(Reply(1, "MemoryError", "first"), attempt=0, rank=1, monkeypatch=monkeypatch)
    assert Reply.read(attempt, rank=1) == Reply(1, "MemoryError", "first")
    left(Reply(1, "PeerError", "echo", echo=True), attempt=1, rank=0, monkeypatch=monkeypatch)
    assert Reply.read(attempt, rank=1) is None


@pytest.mark.parametrize(
    "reply",
    [
        Reply(2, "DivergedError", "error: the loss is nan"),
        Reply(1, "SoundnessError", "error: soundness alarm"),
        Reply(130, "InterruptedRun", "interrupted", echo=True, folder="runs/a"),
    ],
)
def test_what_would_happen_again_is_not_tried_again(
    reply: Reply, attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(reply, attempt=0, rank=0, monkeypatch=monkeypatch)
    assert main(["run", "no-such-recipe.yaml"]) == reply.code
    assert Reply.read(attempt, rank=1) == reply


@pytest.mark.parametrize("kind", ["MemoryError", "PeerError", DIED])
def test_an_accident_is_tried_again(
    kind: str, attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(Reply(1, kind, "an accident"), attempt=1, rank=0, monkeypatch=monkeypatch)
    assert Reply.before() is None
