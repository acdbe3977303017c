"""Every pruning method, stopped at any save and inside begin, ends as if nothing had happened.

A process that dies can lose what it has not saved, and nothing else; so it is stopped here, by an
exception that nothing catches, right after each write of a state and within each method's `begin`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustprune import pruners
from robustprune.pruners import Method, Pruner
from robustprune.training.state import StageState

from . import tiny

pytestmark = pytest.mark.slow

EVERY = {"steps": 1, "stop": 1.0}
SHARP = {"sharpness": {"radius": 0.05}}
SETTINGS: list[dict[str, Any]] = [
    {"name": "hydra"},
    {"name": "hydra", "label": "s2ap", **SHARP},
    {"name": "magnitude"},
    {"name": "magnitude", "label": "awp", **SHARP},
    {"name": "random"},
    {"name": "snip"},
    {"name": "rigl", "every": EVERY},
    {"name": "rigl", "label": "set", "growth": "random", "every": EVERY},
    {"name": "radmm", "every": 1},
    {"name": "lottery", "rate": 0.7, "rewind": 1},
]
CHANGES: dict[str, Any] = {
    "data": {"subset": 64},
    "objective": {"name": "pgd", "eps": 0.1, "steps": 1},
    "prune": {"methods": SETTINGS, "densities": [0.1]},
    "pretrain": {"batch_size": 32, "accumulate": 2},
    "finetune": {"batch_size": 32},
    "evaluate": [],
}


class Killed(BaseException):
    """What ends a run."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    tiny.go(folder, CHANGES)
    return folder


def test_every_registered_pruner_is_here():
    assert {setting["name"] for setting in SETTINGS} == set(pruners.names())


def resumed_until_done(folder: Path) -> int:
    """How often it was killed."""
    kills = 0
    while True:
        try:
            tiny.go(folder, CHANGES, resume=kills > 0)
        except Killed:
            kills += 1
        else:
            return kills


def test_killed_after_each_save_it_writes_the_same_networks(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save = StageState.save

    def dying(self: StageState, path: Path) -> None:
        known = path.exists()
        save(self, path)
        if known or "@" not in path.name:  # its files of single epochs are followed by the state's
            raise Killed

    monkeypatch.setattr(StageState, "save", dying)
    kills = resumed_until_done(tmp_path / "run")
    assert kills > 3 * len(SETTINGS)
    assert tiny.models(tmp_path / "run") == tiny.models(whole)


def test_killed_within_begin_it_writes_the_same_networks(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    begun: set[tuple[str, str]] = set()

    def dying(begin: Callable[..., None]) -> Callable[..., None]:
        def work(self: Method, stage: Any, masked: Any) -> None:
            begin(self, stage, masked)
            key = (self.pruner.variant, stage.name)
            if key not in begun:
                begun.add(key)
                raise Killed

        return work

    for kind in {type(method_of(setting)) for setting in SETTINGS}:
        monkeypatch.setattr(kind, "begin", dying(kind.begin))
    kills = resumed_until_done(tmp_path / "run")
    assert kills == len(begun) >= len(SETTINGS)
    assert tiny.models(tmp_path / "run") == tiny.models(whole)


def method_of(setting: dict[str, Any]) -> Method:
    pruner: Pruner = tiny.recipe({"prune": {"methods": [setting]}}).prune.methods[0]
    return pruner.method(None)  # type: ignore[arg-type]
