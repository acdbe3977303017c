"""Who is killed within an evaluation, and goes on, ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .batch_killer import DEATHS
from .test_killed import ROOT, contents

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("killed")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.batch_killer", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return folder, json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("job", ["run", "evaluate", "certify"])
def test_no_batch_is_judged_again_but_the_one_that_was_under_way(job: str, done: Any) -> None:
    whole, *attempts = done[1][job]
    *killed, last = attempts
    assert (whole["end"], last["end"]) == (0, 0)
    assert [attempt["end"] for attempt in killed] == [-signal.SIGKILL] * 2
    under_way = [attempt["judged"][-1] for attempt in killed]
    finished = [batch for attempt in killed for batch in attempt["judged"][:-1]]
    assert finished + last["judged"] == whole["judged"]
    assert [attempt["judged"][0] for attempt in attempts[1:]] == under_way


def test_they_were_killed_within_an_attack_and_a_certificate(done: Any) -> None:
    for job in ("run", "evaluate"):
        _, *killed, _ = done[1][job]
        assert [tuple(attempt["judged"][-1]) for attempt in killed] == DEATHS


def test_a_run_leaves_the_same_files(done: Any) -> None:
    whole, killed = (contents(done[0] / f"run-{name}") for name in ("whole", "killed"))
    assert killed == whole
    assert not (done[0] / "run-killed" / "state" / "evaluations").exists()


@pytest.mark.parametrize("job", ["evaluate", "certify"])
def test_a_command_writes_the_same_files_and_drops_its_state(job: str, done: Any) -> None:
    for ending in (".json", ".parquet"):
        whole, killed = ((done[0] / f"{job}-{n}{ending}").read_bytes() for n in ("whole", "killed"))
        assert killed == whole
    assert not (done[0] / f"{job}-state").exists()
