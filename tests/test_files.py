from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from robustprune.files import lock, replacing, write_json, write_text


def test_text_and_json_are_written_into_new_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "t.txt", "ε\n")
    write_json(tmp_path / "c" / "j.json", {"ε": [1, None, 0.1]})
    assert (tmp_path / "a" / "b" / "t.txt").read_text(encoding="utf-8") == "ε\n"
    text = (tmp_path / "c" / "j.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ε": [1, None, 0.1]}
    assert "ε" in text
    assert text.endswith("}\n")


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match="no regular file"):
            write_text(path, "new")
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_to_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").read_text() == "new"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        _ = temporary.write_text("half") / 0
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_the_old_file_stands_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_content_is_on_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("sync")
        fsync(descriptor)

    def noted_replace(old: Path, new: Path) -> None:
        events.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_text(tmp_path / "x", "y")
    assert events == ["sync", "rename", "sync"]


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    held = lock(tmp_path / "new" / "lock", wait=False)
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "new" / "lock", wait=False)
    held.close()
    lock(tmp_path / "new" / "lock", wait=True).close()


@pytest.mark.parametrize("durable", [True, False])
def test_what_need_not_be_durable_is_whole_all_the_same_and_waits_for_no_disk(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_text(tmp_path / "x", "old")
    synced.clear()
    with replacing(tmp_path / "x", durable=durable) as temporary:
        temporary.write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"
    assert len(synced) == (2 if durable else 0)
