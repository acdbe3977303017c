from __future__ import annotations

import errno
import os
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from robustprune.errors import InterruptedRun, UsageError
from robustprune.pipeline import job, space
from robustprune.pipeline.folder import RunFolder
from robustprune.pipeline.network import initial_network
from robustprune.pipeline.reserve import Reserve
from robustprune.pipeline.space import Space, check_room, needed

from . import tiny

ADAM = {"optimizer": {"name": "adam", "lr": 1e-3, "weight_decay": 0.0}}
PLAIN = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0}}
CASES: dict[str, Mapping[str, Any]] = {
    "as it is": {},
    "adam": {"pretrain": ADAM, "prune": ADAM, "finetune": ADAM},
    "no momentum": {"pretrain": PLAIN, "prune": PLAIN, "finetune": PLAIN},
    "the best": {
        "data": {"validation": 0.1},
        "pretrain": {"select": "best"},
        "prune": {"select": "best"},
        "finetune": {"select": "best"},
    },
    "noise that is kept": {"objective": {"name": "free", "eps": 0.1, "replays": 2, "steps": None}},
    "norm layers": {"model": {"name": "cnn_small_bn"}},
}
Usage = namedtuple("Usage", "total used free")


def estimate(*changes: Mapping[str, Any], folder: Path | None = None) -> Space:
    recipe = tiny.recipe(tiny.SMALL, *changes)
    data = recipe.data.load(seed=0)
    there = None if folder is None else RunFolder(folder)
    return needed(recipe, data, initial_network(recipe, data), there)


def stop(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("change", CASES.values(), ids=CASES)
def test_what_is_estimated_is_what_is_written(
    change: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job.Job, "_report", stop)
    found = estimate(change)
    with pytest.raises(InterruptedRun):
        tiny.go(tmp_path / "run", tiny.SMALL, change, max_steps=1)
    written = sorted(path.stat().st_size for path in tmp_path.glob("run/state/*.pt"))
    assert len(written) == len(found.states) == 3
    for size, expected in zip(written, sorted(found.states), strict=True):
        # any method may have scores, train all there is and keep a copy of it; these do not
        assert size <= expected <= 2.5 * size + 60_000
    networks = [tmp_path / "run" / name / "model.safetensors" for name in ("dense", "hydra-0.1")]
    for path, expected in zip(networks, found.models, strict=True):
        assert path.stat().st_size <= expected <= 1.1 * path.stat().st_size + 60_000


def test_what_is_there_already_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "dense" / "model.safetensors").touch()
    (tmp_path / "state" / "hydra-0.1.prune.pt").touch()
    new, resumed = estimate(), estimate(folder=tmp_path)
    assert resumed == Space(new.states[2:], new.models[1:])
    assert resumed.folder < new.folder


def usage(monkeypatch: pytest.MonkeyPatch, free: int) -> list[Path]:
    """Let every disk have so many bytes left; the places that were asked for."""
    asked: list[Path] = []

    def disk_usage(place: Path) -> Usage:
        asked.append(place)
        return Usage(10**12, 10**12 - free, free)

    monkeypatch.setattr(space.shutil, "disk_usage", disk_usage)
    return asked


def test_room_is_asked_for_where_the_folder_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Space(states=(5 * 10**6, 3 * 10**6), models=(2 * 10**6,))
    total = 8 + 2 + 5 + (5 + 2 + 1) + 1  # states, models, a draft, the reserve, the rest
    assert (found.folder, found.reserve) == (total * 10**6, 8 * 10**6)
    recipe = tiny.recipe()
    place = {"out": tmp_path / "new" / "run", "runs": tmp_path}
    asked = usage(monkeypatch, found.folder)
    check_room(found, recipe, **place, shares=False)
    assert asked == [tmp_path]
    usage(monkeypatch, found.folder - 10**5)
    with pytest.raises(UsageError, match=r"has 23\.9 MB left, .* write 24\.0 MB there\. Make room"):
        check_room(found, recipe, **place, shares=False)


@pytest.mark.parametrize(
    ("tracking", "shares", "more", "remedy"),
    [
        ({"enabled": False}, True, 2, "--fresh"),
        ({"enabled": True, "report": False}, False, 2 + 2, "tracking.uri"),
        ({"enabled": True}, False, 2 + 2 + 2 + 2, "tracking.uri"),
        ({"enabled": True, "uri": "http://localhost:1"}, False, 2, "--out"),
    ],
)
def test_what_lies_beside_the_run_folder_counts_too(
    tracking: dict[str, Any],
    shares: bool,
    more: int,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Space(states=(), models=(2 * 10**6,))
    recipe = tiny.recipe({"tracking": tracking})
    usage(monkeypatch, found.folder + more * 10**6)
    check_room(found, recipe, out=tmp_path, runs=tmp_path, shares=shares)
    usage(monkeypatch, found.folder + more * 10**6 - 1)
    with pytest.raises(UsageError, match=remedy):
        check_room(found, recipe, out=tmp_path, runs=tmp_path, shares=shares)


def test_a_reserve_takes_blocks_whether_the_system_can_do_so_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    for name in ("as it is", "unsupported", "absent"):
        if name == "unsupported":
            monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
        if name == "absent":
            monkeypatch.delattr(os, "posix_fallocate")
        Reserve(tmp_path / name, 3 * 10**6)
        assert (tmp_path / name).stat().st_size == 3 * 10**6
        assert (tmp_path / name).stat().st_blocks * 512 >= 3 * 10**6


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_reserve_is_given_up_once(tmp_path: Path, number: int) -> None:
    file, tries = tmp_path / "reserve", []

    def work() -> None:
        tries.append(file.exists())
        if file.exists() or len(tries) > 2:
            raise OSError(number, "no room")

    reserve = Reserve(file, 1000)
    reserve.write(work)
    assert (tries, reserve.used) == ([True, False], True)
    with pytest.raises(OSError, match="no room"):
        reserve.write(work)
    assert len(tries) == 3


def test_other_faults_leave_the_reserve(tmp_path: Path) -> None:
    def work() -> None:
        raise OSError(errno.EIO, "broken")

    reserve = Reserve(tmp_path / "reserve", 1000)
    with pytest.raises(OSError, match="broken"):
        reserve.write(work)
    assert (tmp_path / "reserve").exists()
    assert not reserve.used


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_a_reserve_is_refused(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UsageError, match=r"no room for a reserve of 3\.0 MB"):
        Reserve(tmp_path / "reserve", 3 * 10**6)
    assert list(tmp_path.iterdir()) == []


def test_a_quota_that_leaves_no_reserve_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.EDQUOT, "no room")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(job.Job, "_networks", pytest.fail)
    with pytest.raises(UsageError, match="quota is used up"):
        tiny.go(tmp_path / "run", tiny.SMALL)


def test_neither_a_finished_run_nor_one_that_stops_keeps_its_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    monkeypatch.setattr(
        job.Job, "_networks", lambda self: held.append((tmp_path / "run/state/reserve").exists())
    )
    tiny.go(tmp_path / "run", tiny.SMALL)
    assert held == [True]
    assert not (tmp_path / "run/state/reserve").exists()
    monkeypatch.setattr(job.Job, "_networks", stop)
    with pytest.raises(InterruptedRun):
        tiny.go(tmp_path / "other", tiny.SMALL)
    assert not (tmp_path / "other/state/reserve").exists()
