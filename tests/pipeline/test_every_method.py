"""Every pruning method, stopped wherever a run can stop, ends as if nothing had happened.

A process that dies can lose what it has not saved, and nothing else; so it is stopped here, by an
exception that nothing catches, right after each write of a state and within each method's `begin`.
One that is asked to stop does so after a step, here after steps that a coin chooses.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from robustprune import pruners
from robustprune.errors import InterruptedRun
from robustprune.pruners import Method
from robustprune.training.state import StageState
from robustprune.training.step import Stepper

from ..jobs import environment
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
    {"name": "radmm", "every": 1},
    {"name": "lottery", "rate": 0.7, "rewind": 1},
    {"name": "gradual", "every": EVERY},
    {"name": "gradual", "label": "gradual-awp", "every": EVERY, **SHARP},
    {"name": "dns"},
    {"name": "dns", "label": "dns-free", "c_rate": 0.5},
    {"name": "deep_rewiring", "l1": 0.1, "noise": 0.1},
    {"name": "deep_rewiring", "label": "deep_rewiring-layer", "anew": "layer", "l1": 0.1},
    {"name": "robust_bird", "masks": 2, "distance": 1.0, "search": {"epochs": 4}},
    {"name": "boosting"},
    {"name": "harp", "gamma": 0.5},
    {"name": "harp", "label": "harp-s2ap", **SHARP},
    {"name": "admm", "every": 1},
    {"name": "pwoa", "every": 1},
    {"name": "set", "every": EVERY},
    {"name": "flyingbird", "every": EVERY, **SHARP},
    {"name": "flyingbird_plus", "every": {"steps": 1, "stop": 0.9}, "start": 0},
    {"name": "atmc", "bits": 4},
    {"name": "twinrep"},
    {"name": "edge_popup"},
    {"name": "robust_scratch_ticket", "then": "reinit"},
    {"name": "grasp", "per_class": 2},
    {"name": "synflow", "rounds": 5},
    {"name": "taylor", "batches": 2, "batch_size": 32},
    {"name": "scratch_e", "mask": "magnitude"},
    {"name": "scratch_b", "mask": "scratch_e"},
    {"name": "obc", "images": 64},
    {"name": "mad", "batches": 1, "steps": 2},
]
CHANGES: dict[str, Any] = {
    "data": {"subset": 64, "validation": 0.25},
    "objective": {"name": "pgd", "eps": 0.1, "steps": 1},
    "pretrain": {"batch_size": 32, "accumulate": 2},
    "finetune": {"batch_size": 32},
    "evaluate": [],
}


class Killed(BaseException):
    """What ends a run."""


def label(setting: dict[str, Any]) -> str:
    return str(setting.get("label", setting["name"]))


def with_those_it_needs(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """The setting, behind those whose masks it takes."""
    masks = [one for one in SETTINGS if label(one) == setting.get("mask")]
    return [*(needed for one in masks for needed in with_those_it_needs(one)), setting]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, which share their dense network."""
    return tmp_path_factory.mktemp("runs")


def test_every_registered_pruner_is_here() -> None:
    assert {setting["name"] for setting in SETTINGS} == set(pruners.names())


@pytest.mark.parametrize("setting", SETTINGS, ids=label)
def test_stopped_anywhere_it_writes_the_same_network(
    setting: dict[str, Any], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"prune": {"methods": with_those_it_needs(setting), "densities": [0.1]}}
    whole, often = runs / f"{label(setting)}-whole", runs / f"{label(setting)}-often"
    tiny.go(whole, CHANGES, methods, fresh=False)

    stops = Counter[str]()
    with monkeypatch.context() as patch:
        stop_after_saves(patch, stops)
        stop_within_begin(patch, stops)
        stop_after_steps(patch, stops, random.Random(label(setting)))
        stopped = True
        while stopped:
            try:
                tiny.go(often, CHANGES, methods, fresh=False, resume=bool(stops))
                stopped = False
            except (Killed, InterruptedRun):
                pass
    assert tiny.models(often) == tiny.models(whole)
    assert min(stops["save"], stops["begin"], stops["step"]) > 0, stops


def stop_after_saves(patch: pytest.MonkeyPatch, stops: Counter[str]) -> None:
    save = StageState.save

    def dying(self: StageState, path: Path) -> None:
        save(self, path)
        if not self.batch:  # within an epoch the run stops by itself
            stops["save"] += 1
            raise Killed

    patch.setattr(StageState, "save", dying)


def stop_within_begin(patch: pytest.MonkeyPatch, stops: Counter[str]) -> None:
    """Within each, and within that of a class it extends, before they have ended."""
    begun: set[tuple[Any, ...]] = set()

    def dying(begin: Callable[..., None]) -> Callable[..., None]:
        def work(self: Method, stage: Any, masked: Any) -> None:
            begin(self, stage, masked)
            if (key := (begin, self.pruner.variant, stage.name)) not in begun:
                begun.add(key)
                stops["begin"] += 1
                raise Killed

        return work

    for kind in {*kinds(Method)}:
        if "begin" in vars(kind):
            patch.setattr(kind, "begin", dying(kind.begin))


def kinds(kind: type[Method]) -> Iterator[type[Method]]:
    yield kind
    for one in kind.__subclasses__():
        yield from kinds(one)


def stop_after_steps(patch: pytest.MonkeyPatch, stops: Counter[str], coin: random.Random) -> None:
    step = Stepper.step

    def asked(self: Stepper, *arguments: Any) -> bool:
        step(self, *arguments)
        stop = coin.random() < 0.5
        stops["step"] += stop
        return stop

    patch.setattr(Stepper, "step", asked)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_find_the_same_masks(tmp_path: Path) -> None:
    """The job itself compares its processes' networks after each epoch, masks included."""
    first = {setting["name"]: setting for setting in reversed(SETTINGS)}
    settings = [one for one in SETTINGS if one in (first[one["name"]], SETTINGS[1])]
    methods = {"prune": {"methods": settings, "densities": [0.1]}}
    recipe = tiny.write(tmp_path, CHANGES, methods)
    command = [sys.executable, "-m", "robustprune", "run", recipe, "--out", "run", "--quiet"]
    ran = subprocess.run(
        [*map(str, command), "--processes", "2"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    names = [entry["name"] for entry in tiny.results(tmp_path / "run")["networks"]]
    assert names == ["dense", *(f"{label(setting)}-0.1" for setting in settings)]
