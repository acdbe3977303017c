"""The folder that a user names for batches that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustprune.errors import UsageError
from robustprune.pipeline.state import StateFolder


def leave_a_batch(state: StateFolder) -> Path:
    folder = state.judged("pgd")
    folder.mkdir()
    (folder / "0.safetensors").touch()
    return folder


def test_what_was_made_is_removed(tmp_path: Path) -> None:
    with StateFolder(tmp_path / "a" / "state") as state:
        assert not (tmp_path / "a").exists()
        state.open()
        leave_a_batch(state)
    with StateFolder(tmp_path / "a" / "state") as state:
        state.open()
        state.remove(["pgd", "clean"])
    assert list((tmp_path / "a").iterdir()) == []


def test_a_folder_of_the_users_stays_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "0.csv").touch()
    with StateFolder(tmp_path) as state:
        state.open()
        leave_a_batch(state)
        state.remove(["pgd", "clean"])
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "clean"}
    assert [path.name for path in (tmp_path / "clean").iterdir()] == ["0.csv"]


def test_an_empty_folder_of_the_users_stays(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as state:
        state.open()
        state.remove([])
    assert list(tmp_path.iterdir()) == []


def test_what_another_command_has_left_stays(tmp_path: Path) -> None:
    with StateFolder(tmp_path / "state") as state:
        state.open()
        other = leave_a_batch(state)
        state.remove(["smoothing"])
    assert (other / "0.safetensors").exists()
    with StateFolder(tmp_path / "state") as state:
        state.open()
        state.remove(["pgd"])
    assert not (tmp_path / "state").exists()


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with StateFolder(tmp_path) as first, StateFolder(tmp_path) as second:
        first.open()
        with pytest.raises(UsageError, match="another process is at work there"):
            second.open()
    with StateFolder(tmp_path) as third:
        third.open()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            StateFolder(place) as state,
            pytest.raises(UsageError, match=r"cannot be written \(.*Name another folder"),
        ):
            state.open()
