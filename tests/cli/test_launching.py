"""``--processes``: what several processes find, and what is said when one of them fails."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from robustprune.cli.launching import processes
from robustprune.cli.outcome import FAULT, INTERRUPTED, OK, USAGE
from robustprune.errors import UsageError
from robustprune.pipeline import RunResult

from ..jobs import environment
from ..pipeline import tiny
from .conftest import Said

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo"),
    pytest.mark.slow,
]

SLOW = {
    "objective": {"name": "benign", "eps": None, "steps": None},
    "pretrain": {"epochs": 3},
    "prune": None,
    "finetune": None,
    "evaluate": [],
}
PRUNED = {
    "prune": {
        "methods": ["hydra", {"name": "rigl", "every": {"steps": 2, "stop": 1.0}}],
        "densities": [0.1],
        "epochs": 1,
    },
    "finetune": {"epochs": 1},
}
FAULTY = """
import os, signal
from pathlib import Path
import robustprune as rp
from robustprune.objectives.adversarial import Benign

@rp.objectives.register("faulty")
class Faulty(Benign):
    '''Something happens to a process in the second step of the second epoch, once.'''
    happens: str
    def __call__(self, model, images, labels, progress):
        done = Path("happened")
        if progress.step == 3 and os.environ.get("RANK") == "1" and not done.exists():
            done.touch()
            if self.happens == "signal":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError("no memory left")
        return super().__call__(model, images, labels, progress)
"""


def typed(here: Path, *words: str | Path) -> Said:
    """Types a command in a process of its own."""
    command = [sys.executable, "-m", "robustprune", *map(str, words)]
    ran = subprocess.run(
        command, cwd=here, env=environment(), capture_output=True, text=True, timeout=240
    )
    return Said(ran.returncode, ran.stdout, ran.stderr)


def test_two_processes_judge_as_one_does(tmp_path: Path, small: RunResult) -> None:
    model = small.folder / "hydra-0.1" / "model.safetensors"
    images = ["--evaluator", "pgd:steps=5,batch_size=40", "--evaluator", "smoothing:n=200"]
    judged = ["evaluate", model, *images, "--samples", "120"]
    alone = typed(tmp_path, *judged, "--images", "one.csv", "--json", "one.json")
    both = typed(tmp_path, *judged, "--images", "two.csv", "--json", "two.json", "--processes", "2")
    assert (alone.code, both.code, both.err) == (OK, OK, "")
    assert "smoothing %" in both.out
    for ending in ("csv", "json"):
        assert (tmp_path / f"two.{ending}").read_text() == (tmp_path / f"one.{ending}").read_text()


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (
            "signal",
            r"error: process 1 of 2 was killed by SIGKILL\. The memory may have been full\. What",
        ),
        ("error", r"process 1: Traceback[^$]*MemoryError: no memory left\nerror: this is a fault"),
    ],
)
def test_a_process_that_dies_ends_the_job_with_one_message(
    happens: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    objective = {"imports": ["faulty.py"], "objective": {"name": "faulty", "happens": happens}}
    recipe = tiny.write(tmp_path, SLOW, objective)
    failed = typed(tmp_path, "run", recipe, "--out", "run", "--processes", "2")
    assert failed.code == FAULT
    assert re.match(said, failed.err), failed.err
    assert failed.err.count("error:") == 1
    history = json.loads((tmp_path / "run" / "dense" / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == [1]


def test_a_job_that_is_started_anew_goes_on_from_the_last_epoch(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    objective = {"imports": ["faulty.py"], "objective": {"name": "faulty", "happens": "signal"}}
    recipe = tiny.write(tmp_path, {**SLOW, **PRUNED}, objective)
    said = typed(tmp_path, "run", recipe, "--processes", "2", "--restarts", "1", "--fresh")
    assert said.code == OK, said.err
    assert "a process had died: started anew" in said.err
    assert [said.out.count(f"dense pretrain {epoch}/3  2/2") for epoch in (1, 2, 3)] == [1, 1, 1]
    assert "resuming tiny in" in said.out
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    history = json.loads((folder / "dense" / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    results = tiny.results(folder)
    assert results["environment"]["processes"] == 2
    assert [entry["name"] for entry in results["networks"]] == ["dense", "hydra-0.1", "rigl-0.1"]
    assert results["networks"][1]["turnover"] > 0


def stopped(here: Path, when: Callable[[], bool], *words: str | Path) -> Said:
    """Types a command, and stops it by SIGTERM as soon as something is so."""
    command = [sys.executable, "-m", "robustprune", *map(str, words)]
    with subprocess.Popen(
        command,
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as job:
        limit = time.monotonic() + 120
        while not when() and job.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=120)
    return Said(job.returncode, out, err)


def test_a_scheduler_s_stop_saves_the_step_and_the_line_goes_on(tmp_path: Path) -> None:
    many: dict[str, Any] = {"pretrain": {"epochs": 15, "batch_size": 8}}
    recipe = tiny.write(tmp_path, SLOW, many)
    state = tmp_path / "run" / "state" / "dense.pretrain.pt"
    begun = (tmp_path / "run" / "dense" / "history.json").exists  # an epoch has ended
    said = stopped(tmp_path, begun, "run", recipe, "--out", "run", "--processes", "2", "--fresh")
    assert said.code == INTERRUPTED, said.err
    assert "Traceback" not in said.err
    (line,) = re.findall(r"^Resume with: robustprune (.*)$", said.err, re.MULTILINE)
    assert "--processes 2" in line
    steps = torch.load(state, weights_only=True)["step"]
    assert 0 < steps < 15 * 16

    resumed = typed(tmp_path, *shlex.split(line))
    whole = typed(tmp_path, "run", recipe, "--out", "whole", "--processes", "2", "--fresh")
    assert (resumed.code, resumed.err, whole.code) == (OK, "", OK)
    assert tiny.models(tmp_path / "run") == tiny.models(tmp_path / "whole")
    histories = [(tmp_path / n / "dense" / "history.json").read_text() for n in ("run", "whole")]
    assert histories[0] == histories[1]


def test_processes_that_judge_are_stopped_and_go_on(tmp_path: Path, small: RunResult) -> None:
    model = small.folder / "dense" / "model.safetensors"
    judged = ["evaluate", model, "--evaluator", "pgd:eps=0.1,steps=300,batch_size=5"]
    judged += ["--samples", "50", "--state", "kept", "--processes", "2"]
    kept = tmp_path / "kept"

    def some() -> bool:
        return len(list(kept.rglob("*.safetensors"))) >= 4

    said = stopped(tmp_path, some, *judged, "--images", "stopped.csv")
    assert said.code == INTERRUPTED, said.err
    assert 4 <= len(list(kept.rglob("*.safetensors"))) < 10
    (line,) = re.findall(r"^Resume with: robustprune (.*)$", said.err, re.MULTILINE)
    resumed = typed(tmp_path, *shlex.split(line))
    assert (resumed.code, resumed.err) == (OK, "")
    assert not kept.exists()
    whole = typed(tmp_path, *judged[:-4], "--images", "whole.csv")
    assert whole.code == OK
    assert (tmp_path / "stopped.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_a_fault_of_the_user_s_is_told_once(tmp_path: Path) -> None:
    recipe = tiny.write(tmp_path, SLOW)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    said = typed(tmp_path, "run", recipe, "--out", "run", "--processes", "2")
    assert said.code == USAGE
    assert said.err.startswith("error: run is not empty.")
    assert said.err.count("error:") == 1


@pytest.mark.parametrize(
    ("options", "world", "message"),
    [
        ({"processes": 2, "restarts": None}, "2", "another launcher has started"),
        ({"processes": None, "restarts": 1}, "1", "torchrun has --max-restarts"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    options: dict[str, Any], world: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UsageError, match=message):
        processes(Namespace(**options))
