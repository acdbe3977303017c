"""Many runs at once: seeds, jobs of this machine, and jobs of a cluster."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from robustprune.cli.many import starter
from robustprune.cli.outcome import FAULT, OK, USAGE
from robustprune.cli.variants import variants
from robustprune.errors import UsageError

from ..jobs import environment
from ..pipeline import tiny
from .conftest import Command

FRAIL = """
import os, signal
import robustprune as rp
from robustprune.objectives.adversarial import Benign

@rp.objectives.register("frail")
class Frail(Benign):
    '''Of all processes the first that comes to the third epoch of a stage is killed there.'''
    def __call__(self, model, images, labels, progress):
        if progress.step == 4:
            try:
                open("../killed", "x").close()
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return super().__call__(model, images, labels, progress)
"""
CHANGE: Any = {
    "imports": ["frail.py"],
    "objective": {"name": "frail", "eps": None, "steps": None},
    "pretrain": {"epochs": 1},
    "prune": {"methods": ["hydra"], "epochs": 3},
    "finetune": None,
    "evaluate": [{"name": "clean", "samples": 50}],
}


@pytest.fixture
def recipe(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, environment()[name])
    (here / "frail.py").write_text(FRAIL)
    return tiny.write(here, CHANGE)


def written(runs: Path) -> dict[str, Any]:
    """The networks' files and metrics of every run, by its name and theirs."""
    found: dict[str, Any] = {}
    for file in runs.glob("tiny-*/*/results.json"):
        name = file.parent.parent.name
        for entry in tiny.results(file.parent)["networks"]:
            model = tiny.models(file.parent)[entry["name"]]
            found[f"{name} {entry['name']}"] = (model, entry["metrics"], entry["measures"])
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("own_parts")
def test_runs_at_once_write_what_runs_in_turn_do_and_a_killed_one_is_named_and_resumed(
    command: Command, recipe: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", recipe, "--sweep", "prune.densities=[[0.1],[0.2],[0.5],[1]]", "--seeds", "0..1")
    for name in ("jobs", "turn", "cluster"):
        (here / name).mkdir()
    monkeypatch.chdir(here / "jobs")
    said = command(*words, "--jobs", "2")
    assert said.code == FAULT
    (line,) = [line for line in said.err.splitlines() if "was killed by SIGKILL" in line]
    name = line.split(":")[1].strip()
    (log,) = (here / "jobs" / "runs" / name).glob("*/log.txt")
    assert f"see {log.relative_to(here / 'jobs')})" in line
    assert said.out.count(": done (") == 7
    assert said.err.rstrip().endswith("--jobs 2 --resume")
    again = command(*words, "--jobs", "2", "--resume")
    assert (again.code, again.err) == (OK, "")
    assert again.out.count("finished already in") == 7
    assert f"resuming {name} in" in log.read_text()
    (row,) = [line.split() for line in again.out.splitlines() if "tiny-densities-4 " in line][2:3]
    assert row[2] == "2", "runs, in the one row of both seeds"

    monkeypatch.chdir(here / "turn")
    assert command(*words, "--quiet").code == OK
    expected = written(here / "turn" / "runs")
    assert len(expected) == 16
    assert written(here / "jobs" / "runs") == expected
    reused = list((here / "jobs").glob("runs/tiny-*/*/state/reused.json"))
    assert len(reused) == 6, "two networks, one a seed, were trained"

    monkeypatch.chdir(here / "cluster")
    words = ("run", recipe, "--sweep", "prune.densities=[[0.1]]", "--seeds", "0..1")
    said = command(*words, "--cluster", "local", "--jobs", "2")
    assert (said.code, said.err) == (OK, "")
    found = written(here / "cluster" / "runs")
    assert found == {key: expected[key] for key in found}
    assert len(found) == 4


def test_seeds_are_runs_of_their_names(tmp_path: Path) -> None:
    path = tiny.write(tmp_path)
    found = variants([path], overrides=[], sweeps=["prune.epochs=[1,3]"], seeds="0..1,7")
    assert [(v.recipe.name, v.recipe.seed) for v in found] == [
        (f"tiny-epochs-{epochs}-seed-{seed}", seed) for epochs in (1, 3) for seed in (0, 1, 7)
    ]


@pytest.mark.parametrize("seeds", ["", "a", "0..", "3..1", "-1", "0..1e9", "0..9999999999", "0;1"])
def test_seeds_that_mean_nothing_are_a_mistake(seeds: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--seeds .* e\.g\. 0\.\.4 or 0,1,7; got"):
        variants([tiny.write(tmp_path)], overrides=[], sweeps=[], seeds=seeds)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0,1", "--sweep", "seed=[2]"], "--seeds and --sweep seed=[…] say the same"),
        (["--seeds", "0,1", "--set", "seed=2"], "--set seed=2: --seeds replaces it in every run"),
        (
            ["--sweep", "prune.optimizer=[sgd]", "--set", "prune.optimizer.lr=2"],
            "--sweep prune.optimizer replaces it in every run",
        ),
        (["--slurm", "partition=gpu"], "--slurm is about jobs of --cluster slurm"),
        (["--cluster", "slrum"], "no cluster 'slrum'. Choices: slurm, local."),
        (["--cluster", "slurm"], '--cluster slurm: Could not detect "srun"'),
        (["--cluster", "local", "--slurm", "gpu"], "--slurm gpu: expected KEY=VALUE"),
        (["--cluster", "local", "--out", "x"], "jobs of a cluster get folders of their own"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_a_mistake_starts_nothing(
    words: list[str], message: str, command: Command, here: Path
) -> None:
    said = command("run", tiny.write(here), *words)
    assert said.code == USAGE
    assert message in said.err
    assert not list(here.glob("runs/tiny*"))


def test_cores_are_shared_by_no_more_jobs_than_there_are_runs() -> None:
    assert starter(Namespace(cluster=None, jobs=8), count=2)[1] == 2
    assert starter(Namespace(cluster=None, jobs=2), count=8)[1] == 2


def test_without_submitit_the_extra_is_named(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    said = command("run", tiny.write(here), "--cluster", "slurm")
    assert said.code == USAGE
    assert "--cluster needs submitit: pip install 'robustprune[cluster]'" in said.err
