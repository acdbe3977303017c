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
FULL = [
    "in an epoch",
    "before an evaluation is written",
    "before a pruned network is written",
]
Told = dict[str, Any]
pytestmark = pytest.mark.slow


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
    assert "has 0.3 MB left, and the run would write about" in line
    assert "Make room" in line
    assert "--out" in line
    assert told["too small"]["left"] == ["filler"]


def test_a_read_only_disk_is_refused_before_training(told: Told) -> None:
    assert "cannot write to run: Read-only file system" in refusal(told, "read-only")
    line = refusal(told, "read-only shared")
    assert "cannot write to runs/dense/" in line
    assert "--fresh" in line
    assert "tracking: cannot write" in refusal(told, "read-only store")
    line = refusal(told, "read-only resume")
    assert "cannot resume in run: Read-only file system (run/state/lock). Mend that" in line


@pytest.mark.parametrize("moment", FULL)
def test_a_disk_that_becomes_full_ends_the_run_and_says_how_to_go_on(
    told: Told, moment: str
) -> None:
    line = refusal(told, moment)
    assert line.startswith("error: the disk is full (run/")
    assert "What was finished is kept in run. Make room and resume with: robustprune run" in line
    assert line.endswith("tiny.yaml --out run --quiet --resume")


def test_no_resume_begins_while_the_disk_is_still_full(told: Told) -> None:
    line = refusal(told, "still full")
    assert "cannot resume in run: No space left on device (run/recipe.yaml). Mend that" in line


def test_resumed_it_ends_with_the_same_bytes(told: Told) -> None:
    assert told["undisturbed"] == told["the last time"] == {"code": 0, "said": ""}
    assert told["patched"].keys() == told["whole"].keys()  # no draft or state is left
    assert told["patched"] == told["whole"]
    assert {"dense/model.safetensors", "hydra-0.1/model.safetensors"} < told["whole"].keys()


def test_a_store_on_the_full_disk_costs_a_warning_and_the_run_no_more(tmp_path: Path) -> None:
    tracking = {"enabled": True, "report": False, "uri": None}
    told = tell(tmp_path, "tracked", {"tracking": tracking})
    *warnings, line = told["in an epoch"]["said"].splitlines()
    assert told["in an epoch"]["code"] == 2
    assert "What was finished is kept in run" in line
    assert len(warnings) <= 1, warnings
    assert all("MLflow tracking stopped" in text for text in warnings)
    assert told["the last time"]["code"] == 0
