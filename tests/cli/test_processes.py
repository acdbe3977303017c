"""A command in several processes: one of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from robustprune.cli.main import INTERRUPTED, OK
from robustprune.pipeline import RunResult

from ..pipeline.test_killed import ROOT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_that_are_stopped_and_go_on_write_what_one_writes(
    tmp_path: Path, small: RunResult
) -> None:
    model = small.folder / "dense" / "model.safetensors"
    ran = subprocess.run(
        [sys.executable, "-m", "tests.cli.processes", model, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "alone None": [OK],
        "stopped 4": [INTERRUPTED] * 2,
        "kept": [f"{number}.safetensors" for number in range(4)],
        "stopped None": [OK] * 2,
    }, ran.stderr
    assert "Traceback" not in ran.stderr
    for ending in ("json", "csv"):
        alone, together = (tmp_path / f"{name}-0.{ending}" for name in ("alone", "stopped"))
        assert together.read_bytes() == alone.read_bytes()
    assert not list(tmp_path.glob("stopped-1.*"))
    assert not (tmp_path / "stopped-state").exists()
