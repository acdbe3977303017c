"""Threads, where the recipe does not say: what is idle and allowed, recorded, and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.errors import InterruptedRun
from robustprune.pipeline import threads
from robustprune.pipeline.compute import Compute
from robustprune.pruners import Method
from robustprune.recipe import ComputeOptions

from . import tiny
from .steps import interrupting, watched


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch would take eight threads, and nobody has said otherwise."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(8)
    threads._idle.cache_clear()
    yield
    torch.set_num_threads(before)
    threads._idle.cache_clear()


def machine(
    patch: pytest.MonkeyPatch, *, busy: list[float], own: list[int], quota: float = math.inf
) -> None:
    """CPUs that are so busy, in percent; those that this process may use, and its quota."""
    patch.setattr(threads.psutil, "cpu_percent", lambda seconds, percpu: busy)
    patch.setattr(threads.psutil.Process, "cpu_affinity", lambda process: own, raising=False)
    patch.setattr(threads, "quota", lambda: quota)


@pytest.mark.parametrize(
    ("busy", "own", "quota", "processes", "expected"),
    [
        ([0] * 8, range(8), math.inf, 1, 8),
        ([0] * 64, range(64), math.inf, 1, 8),  # torch's own number is the most
        ([0] * 8, [2, 5], math.inf, 1, 2),
        ([0] * 8, range(8), 2.0, 1, 2),
        ([0] * 8, range(8), 0.5, 1, 1),
        ([0] * 8, range(8), math.inf, 4, 2),
        ([0] * 8, range(8), math.inf, 100, 1),
        ([100] * 5 + [0] * 3, range(8), math.inf, 1, 3),
        ([100] * 8, range(8), math.inf, 1, 1),
        ([100, 0], [0, 1], math.inf, 1, 1),
        ([20, 0], [0, 1], math.inf, 1, 2),  # what any machine does beside
        ([50, 0], [0, 1], math.inf, 1, 1),
        ([100] * 4 + [0] * 4, range(4), math.inf, 1, 1),  # others' idle CPUs are of no use
        ([100] * 4 + [0] * 4, range(8), 3.0, 1, 3),
        ([100] * 4 + [0] * 4, range(8), 3.0, 3, 1),
    ],
)
def test_it_is_what_is_idle_and_allowed(
    busy: list[float],
    own: Any,
    quota: float,
    processes: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, busy=busy, own=list(own), quota=quota)
    assert threads.default_threads({"LOCAL_WORLD_SIZE": str(processes)}) == expected
    assert threads.default_threads({}, processes=processes) == expected


def test_the_users_own_word_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, busy=[100, 100], own=[0, 1])
    assert threads.default_threads({"OMP_NUM_THREADS": "8"}) == 8
    torch.set_num_threads(1)
    machine(monkeypatch, busy=[0] * 8, own=list(range(8)))
    assert threads.default_threads({}) == 1


def test_it_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, busy=[0] * 8, own=list(range(8)))
    assert threads.default_threads({}) == 8
    machine(monkeypatch, busy=[100] * 8, own=list(range(8)))  # by the run before, say
    assert threads.default_threads({}) == 8


V1 = "4:cpu,cpuacct:/a/b\n3:memory:/a/b\n1:name=systemd:/x\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, math.inf),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/host/path\n", {"cpu.max": "300000 100000"}, 3.0),  # a container sees its own as /
        (V1, {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
              "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 2.5),
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
    ],
)  # fmt: skip
def test_quotas_of_control_groups_are_read(
    groups: str, files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert threads.quota(tmp_path) == expected


def test_where_there_are_no_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert threads.quota(tmp_path) == math.inf


def test_a_recipes_own_number_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, busy=[100] * 8, own=list(range(8)))
    for given, expected in ((3, 3), (None, 1)):
        with Compute(ComputeOptions(device="cpu", threads=given)):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 8


def test_a_run_that_goes_on_keeps_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = (tiny.SMALL, {"compute": {"threads": None}})
    with monkeypatch.context() as patch:
        machine(patch, busy=[100, 0, 0], own=[0, 1, 2])
        patch.setattr(Method, "step", interrupting(1, "prune"))
        with pytest.raises(InterruptedRun):
            tiny.go(tmp_path / "run", *changes)
    assert tiny.results(tmp_path / "run")["environment"]["threads"] == 2
    threads._idle.cache_clear()
    machine(monkeypatch, busy=[100, 100, 100], own=[0, 1, 2])
    seen: list[int] = []

    look = watched(lambda network, stage: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(Method, "step", look)
    result = tiny.go(tmp_path / "run", *changes, resume=True)
    assert set(seen) == {2}
    assert result.results["environment"]["threads"] == 2
