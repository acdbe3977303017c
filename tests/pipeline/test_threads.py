"""Threads, where the recipe does not say: what is idle and allowed, recorded, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.errors import InterruptedRun
from robustprune.pipeline import compute
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
    compute._idle.cache_clear()
    yield
    torch.set_num_threads(before)
    compute._idle.cache_clear()


def machine(
    patch: pytest.MonkeyPatch, *, busy: list[float], own: list[int], quota: int = 8
) -> None:
    """CPUs that are so busy, in percent; those that this process may use, and its quota."""
    patch.setattr(compute.psutil, "cpu_percent", lambda seconds, percpu: busy)
    patch.setattr(compute.psutil.Process, "cpu_affinity", lambda process: own, raising=False)
    patch.setattr(compute, "cpu_count", lambda: quota)


@pytest.mark.parametrize(
    ("busy", "own", "quota", "processes", "expected"),
    [
        ([0] * 64, range(64), 64, 1, 8),  # torch's own number is the most
        ([0] * 8, [2, 5], 8, 1, 2),
        ([0] * 8, range(8), 2, 1, 2),
        ([0] * 8, range(8), 8, 4, 2),
        ([0] * 8, range(8), 8, 100, 1),
        ([100] * 5 + [0] * 3, range(8), 8, 1, 3),
        ([100] * 8, range(8), 8, 1, 1),
        ([20, 0], [0, 1], 2, 1, 2),  # what any machine does beside
        ([50, 0], [0, 1], 2, 1, 1),
        ([100] * 4 + [0] * 4, range(4), 8, 1, 1),  # others' idle CPUs are of no use
    ],
)
def test_it_is_what_is_idle_and_allowed(
    busy: list[float],
    own: Any,
    quota: int,
    processes: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, busy=busy, own=list(own), quota=quota)
    assert compute.default_threads(processes=processes) == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert compute.default_threads() == expected


def test_the_users_own_word_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, busy=[100, 100], own=[0, 1])
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "8")
        assert compute.default_threads() == 8
    torch.set_num_threads(1)
    machine(monkeypatch, busy=[0] * 8, own=list(range(8)))
    assert compute.default_threads() == 1


def test_it_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, busy=[0] * 8, own=list(range(8)))
    assert compute.default_threads() == 8
    machine(monkeypatch, busy=[100] * 8, own=list(range(8)))  # by the run before, say
    assert compute.default_threads() == 8


def test_a_recipes_own_number_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, busy=[100] * 8, own=list(range(8)))
    for given, expected in ((3, 3), (None, 1)):
        with Compute(ComputeOptions(device="cpu", threads=given)):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 8


@pytest.mark.slow
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
    compute._idle.cache_clear()
    machine(monkeypatch, busy=[100, 100, 100], own=[0, 1, 2])
    seen: list[int] = []

    look = watched(lambda network, stage: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(Method, "step", look)
    result = tiny.go(tmp_path / "run", *changes, resume=True)
    assert set(seen) == {2}
    assert result.results["environment"]["threads"] == 2
