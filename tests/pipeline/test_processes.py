"""What several processes find together, one finds alone: to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from .test_killed import ROOT


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_an_attack_and_a_certificate_do_not_depend_on_the_number_of_processes(
    tmp_path: Path,
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.processes", tmp_path, "1", "2", "4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    ((attack, certificate),) = found["1"]
    assert 0 < attack["metrics"]["pgd"] < 1
    assert 0 < certificate["metrics"]["smoothing"] < 1
    assert len(set(certificate["images"]["smoothing_radius"])) > 5
    for world in (2, 4):
        assert found[f"{world}"] == [[attack, certificate]] * world
