"""A run whose disk has too little room, becomes full, or takes no writes at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import tiny

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
KEPT = {
    "in the first epoch": "state after epoch 1 of dense pretrain",
    "in an epoch": "state after epoch 2 of dense pretrain",
    "before the dense network is written": "network dense",
    "before an evaluation is written": "evaluation 'clean' of dense",
    "before its second evaluation is written": "evaluation 'pgd' of dense",
    "before metrics are noted in the model": "network dense",
    "in the last epoch of pruning": "state after epoch 2 of hydra-0.1 prune",
    "in an epoch of finetuning": "state after epoch 1 of hydra-0.1 finetune",
    "before a pruned network is written": "network hydra-0.1",
}
Told = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def namespace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A disk of a few MB can be mounted, for one process and its children only."""
    place = str(tmp_path_factory.mktemp("trial"))
    if shutil.which(NAMESPACE[0]) is None:
        pytest.skip("needs unshare, to mount a small disk")
    mount = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", place]
    tried = subprocess.run(mount, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"a small disk cannot be mounted: {tried.stderr.strip()}")


def tell(folder: Path, story: str, *changes: dict[str, Any]) -> Told:
    """What happened to each command of a story of `tests.pipeline.filler`."""
    evaluate = {"evaluate": tiny.RECIPE["evaluate"]}
    recipe = tiny.write(folder, tiny.SMALL, evaluate, *changes)
    words = [sys.executable, "-m", "tests.pipeline.filler", story, recipe, folder / "disk", folder]
    ran = subprocess.run(
        [*NAMESPACE, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    told: Told = json.loads(ran.stdout)
    return told


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return tell(tmp_path_factory.mktemp("full"), "interrupted")


def refusal(told: Told, moment: str) -> str:
    """The one line by which a command was refused."""
    assert told[moment]["code"] == 2, told[moment]["said"]
    (line,) = told[moment]["said"].splitlines()
    assert line.startswith("error: ")
    return str(line)


def test_too_little_room_is_refused_before_anything_is_written(told: Told) -> None:
    line = refusal(told, "too small")
    assert "has 2.1 MB left, and the run would write 5." in line
    assert "Make room" in line
    assert "--out" in line
    assert told["too small"]["left"] == ["filler"]


def test_a_read_only_disk_is_refused_before_training(told: Told) -> None:
    assert "cannot write to run: Read-only file system" in refusal(told, "read-only")
    assert "cannot write to runs/tiny/" in refusal(told, "read-only runs")
    line = refusal(told, "read-only shared")
    assert "cannot write to runs/dense/" in line
    assert "--fresh" in line
    assert "tracking: cannot write" in refusal(told, "read-only store")
    line = refusal(told, "read-only resume")
    assert "cannot resume in run: Read-only file system. Make run writable" in line


@pytest.mark.parametrize("moment", KEPT)
def test_a_disk_that_becomes_full_ends_the_run_and_says_what_is_kept(
    told: Told, moment: str
) -> None:
    line = refusal(told, moment)
    assert f"the disk is full. The {KEPT[moment]} is kept in run. Make room and resume with" in line
    assert "tiny.yaml --out" in line
    assert "/run --resume" in line


def test_no_resume_begins_while_the_disk_is_still_full(told: Told) -> None:
    assert "MB left, and the run would write" in refusal(told, "still full")


def test_resumed_it_ends_with_the_same_bytes_and_no_step_was_taken_twice(told: Told) -> None:
    assert told["undisturbed"] == told["the last time"] == {"code": 0, "said": ""}
    assert told["patched"].keys() == told["whole"].keys()  # no reserve, draft or state is left
    assert told["patched"] == told["whole"]
    assert {"dense/model.safetensors", "hydra-0.1/model.safetensors"} < told["whole"].keys()
    assert told["steps"]["patched"] == told["steps"]["whole"]
    assert len(told["steps"]["whole"].splitlines()) == 12  # 3 stages, 2 epochs, 2 batches


def test_a_dense_network_that_cannot_be_shared_costs_a_warning(told: Told) -> None:
    warning, error = told["before it is shared"]["said"].splitlines()
    assert "the dense network is not shared: [Errno 28] No space left" in warning
    assert "The evaluation 'clean' of dense is kept in b." in error
    assert told["after it is shared"]["code"] == 0


def test_a_store_on_the_full_disk_costs_a_warning_and_the_run_no_more(tmp_path: Path) -> None:
    tracking = {"enabled": True, "report": False, "uri": None}
    told = tell(tmp_path, "tracked", {"tracking": tracking})
    *warnings, line = told["in an epoch"]["said"].splitlines()
    assert told["in an epoch"]["code"] == 2
    assert "The state after epoch 1 of dense pretrain is kept" in line
    assert len(warnings) <= 1, warnings
    assert all("MLflow tracking stopped" in text for text in warnings)
    assert told["the last time"]["code"] == 0
    assert told["steps"]["patched"].splitlines()[-1] == "hydra-0.1.finetune 3"
    assert len(told["steps"]["patched"].splitlines()) == 12
