"""A run that is killed, at whatever moment, and resumed ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from . import tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHANGES = {
    "data": {"validation": 0.1},
    "prune": {"densities": [0.5, 0.1]},
    "finetune": {"select": "best"},
    "evaluate": [*tiny.RECIPE["evaluate"], tiny.AUTOATTACK],
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_twenty_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    recipe = tiny.write(tmp_path, CHANGES)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.killer", recipe, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    ends = json.loads(ran.stdout)
    first, *killed, last = ends
    assert (ends[first], ends[last]) == (0, 0), ran.stderr
    assert {moment: ends[moment] for moment in killed} == dict.fromkeys(killed, -signal.SIGKILL)
    assert len(killed) == 20
    whole, patched = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert patched.keys() == whole.keys()  # no draft is left, and no stage's state
    assert patched == whole
    assert sum(name.endswith("model.safetensors") for name in whole) == 5


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
