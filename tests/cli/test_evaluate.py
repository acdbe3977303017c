from __future__ import annotations

import json
import os
import shlex
import signal
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest

from robustprune import evaluators
from robustprune.cli import typed
from robustprune.cli.outcome import INTERRUPTED, OK
from robustprune.evaluators import base
from robustprune.pipeline import RunResult
from robustprune.seeding import fork

from .conftest import Command


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "hydra-0.1"])
def test_it_says_what_the_run_said(
    name: str, command: Command, here: Path, small: RunResult
) -> None:
    path = small.folder / name / "model.safetensors"
    said = command("evaluate", path, "--json", "found/metrics.json")
    assert (said.code, said.err) == (0, "")
    metrics = small.network(name)["metrics"]
    found = json.loads((here / "found" / "metrics.json").read_text())
    assert found == {"model": str(path), "metrics": metrics}
    (row,) = (line.split() for line in said.out.splitlines() if line.startswith(" pgd "))
    assert row[:3] == ["pgd", "%", f"{100 * metrics['pgd']:.1f}"]
    assert row[-1] == "64"


@pytest.mark.slow
def test_evaluators_and_samples_can_be_chosen(
    command: Command, here: Path, small: RunResult
) -> None:
    path = small.folder / "dense" / "model.safetensors"
    chosen = ["--evaluator", "clean", "--evaluator", "pgd:eps=1/255,steps=2,label=weak"]
    said = command("evaluate", path, *chosen, "--samples", "20", "--json", "metrics.json")
    assert said.code == 0
    metrics = json.loads((here / "metrics.json").read_text())["metrics"]
    assert (metrics["clean_n"], metrics["weak_n"]) == (20, 20)
    assert "pgd" not in metrics


def test_an_attack_that_tries_less_than_its_name_promises_says_so(
    command: Command, here: Path, small: RunResult
) -> None:
    path = small.folder / "dense" / "model.safetensors"
    weak = ["autoattack:steps=1,version=rand,eps=0.1", "pgd:steps=2,eps=0.1", "pgd:eps=0.1"]
    chosen = [word for text in weak for word in ("--evaluator", text)]
    said = command("evaluate", path, *chosen, "--samples", "5", "--json", "metrics.json")
    names = ["autoattack-rand-1", "pgd-2", "pgd"]
    table = said.out[said.out.index("metric") :].splitlines()
    assert [line.split()[0] for line in table[2:]] == names
    metrics = json.loads((here / "metrics.json").read_text())["metrics"]
    assert [name for name in metrics if f"{name}_n" in metrics] == names


def test_an_evaluator_is_written_in_one_word() -> None:
    assert typed.part("clean") == ("clean", {})
    options = {"eps": "8/255", "steps": "20"}
    assert typed.part("pgd: eps = 8/255 ,steps=20,") == ("pgd", options)
    with pytest.raises(ArgumentTypeError, match="'eps' has no ="):
        typed.part("pgd:eps")


ATTACK = ["--evaluator", "clean:batch_size=40", "--evaluator", "pgd:eps=0.1,steps=2,batch_size=20"]


class Stop:
    """Arranges for a signal while a batch is judged, and counts batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.judged: list[tuple[str, int]] = []
        self.at: tuple[str, int] | None = None
        self.signal = signal.SIGTERM

        def watched(seed: int, network: str, metric: str, number: int) -> Any:
            self.judged.append((metric, number))
            if self.at == (metric, number):
                self.at = None
                os.kill(os.getpid(), self.signal)
            return fork(seed, network, metric, number)

        monkeypatch.setattr(base, "fork", watched)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    return Stop(monkeypatch)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_is_answered_with_the_line_that_goes_on(
    name: str, command: Command, here: Path, small: RunResult, stop: Stop
) -> None:
    path = small.folder / "dense" / "model.safetensors"
    words = ["evaluate", path, *ATTACK, "--samples", "70", "--json"]
    assert command(*words, "whole.json").code == OK
    whole = list(stop.judged)
    assert len(whole) == 2 + 4
    stop.judged.clear()
    stop.at, stop.signal = ("pgd", 2), getattr(signal, name)
    said = command(*words, "resumed.json", "--state", "my state")
    assert said.code == INTERRUPTED
    assert "Traceback" not in said.err
    assert not (here / "resumed.json").exists()
    line = said.err.splitlines()[-1].removeprefix("Resume with: ")
    again = command(*shlex.split(line)[1:])
    assert (again.code, again.err) == (OK, "")
    assert stop.judged == [*whole[:5], *whole[4:]]
    assert (here / "resumed.json").read_bytes() == (here / "whole.json").read_bytes()
    assert sorted(path.name for path in here.iterdir()) == ["resumed.json", "whole.json"]


def test_without_a_state_nothing_is_left_of_what_was_stopped(
    command: Command, here: Path, small: RunResult, stop: Stop
) -> None:
    stop.at = ("pgd", 1)
    path = small.folder / "dense" / "model.safetensors"
    words = ["--samples", "40", "--json", "a.json"]
    said = command("evaluate", path, *ATTACK, *words)
    assert said.code == INTERRUPTED
    assert said.err.endswith("interrupted.\n")
    line = shlex.split(said.err.splitlines()[0].partition("type: ")[2])
    assert line == ["robustprune", "evaluate", str(path), *ATTACK, *words, "--state", "DIR"]
    assert list(here.iterdir()) == []


def test_a_state_of_something_else_is_not_taken_over(
    command: Command, here: Path, small: RunResult, stop: Stop
) -> None:
    dense, pruned = (small.folder / name / "model.safetensors" for name in ("dense", "hydra-0.1"))
    stop.at = ("pgd", 1)
    words = [*ATTACK, "--samples", "40", "--state", "state"]
    assert command("evaluate", dense, *words).code == INTERRUPTED
    stop.judged.clear()
    assert command("evaluate", pruned, *words).code == OK
    assert stop.judged == [("clean", 0), ("pgd", 0), ("pgd", 1)]


@pytest.mark.slow
def test_several_networks_make_one_table(command: Command, here: Path, small: RunResult) -> None:
    paths = [small.folder / name / "model.safetensors" for name in ("dense", "hydra-0.1")]
    words = ["--measures", "size,flops", "--evaluator", "clean", "--evaluator", "pgd:eps=0.1"]
    sizes = ["--samples", "30", "--batch-size", "20", "--threads", "1", "--device", "cpu"]
    said = command("evaluate", *paths, *words, *sizes, "--json", "a.json", "--state", "kept")
    assert (said.code, said.err) == (OK, "")
    found = json.loads((here / "a.json").read_text())
    assert [one["model"] for one in found] == [str(path) for path in paths]
    for one, name in zip(found, ("dense", "hydra-0.1"), strict=True):
        assert one["measures"] == small.network(name)["measures"]
        assert one["metrics"]["pgd_n"] == 30
        accuracies, measured = (
            line.split()[1:] for line in said.out.splitlines() if line.split()[:1] == [one["model"]]
        )
        assert accuracies[0] == f"{100 * one['metrics']['clean']:.1f}"
        assert measured[1] == f"{one['measures']['size']['kept']:,}"
    assert not (here / "kept").exists()


def test_a_bad_file_among_several_is_named_before_work_begins(
    command: Command, here: Path, small: RunResult, stop: Stop
) -> None:
    good, bad = small.folder / "dense" / "model.safetensors", here / "bad.safetensors"
    bad.write_bytes(b"no model")
    said = command("evaluate", good, bad, *ATTACK)
    assert (said.code, said.out, stop.judged) == (2, "", [])
    assert str(bad) in said.err
    said = command("evaluate", good, good.parent.parent / "hydra-0.1" / good.name,
                   "--evaluator", "clean", "--images", "a.csv")  # fmt: skip
    assert (said.code, stop.judged) == (2, [])
    assert "--images is for one model" in said.err


def test_measures_alone_judge_nothing(
    command: Command, here: Path, small: RunResult, stop: Stop
) -> None:
    path = small.folder / "hydra-0.1" / "model.safetensors"
    said = command("evaluate", path, "--measures", "flops,latency", "--batch-size", "3",
                   "--json", "a.json")  # fmt: skip
    assert (said.code, said.err, stop.judged) == (OK, "", [])
    found = json.loads((here / "a.json").read_text())
    assert found["metrics"] == {}
    assert found["measures"]["flops"] == small.network("hydra-0.1")["measures"]["flops"]
    assert found["measures"]["latency"]["batch_size"] == 3
    assert " milliseconds_per_image " in said.out
    said = command("evaluate", path, "--measures", "flop")
    assert said.code == 2
    assert "Did you mean 'flops'?" in said.err


OWN = '''
import robustprune as rp


@rp.evaluators.register("always_right")
class AlwaysRight(rp.Evaluator):
    """Counts every image."""

    def judge(self, model, images, labels, *, seed):
        return {self.metric: labels == labels}
'''


def test_parts_of_ones_own_come_from_the_imports_of_a_recipe(
    command: Command, here: Path, small: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluators.names()
    monkeypatch.setattr(evaluators.registry, "_parts", dict(evaluators.registry._parts))
    (here / "own.py").write_text(OWN)
    (here / "mine.yaml").write_text("imports: [own.py]\n")
    words = [
        "evaluate",
        small.folder / "dense" / "model.safetensors",
        "--evaluator",
        "always_right",
    ]
    assert command(*words).code == 2
    said = command(*words, "--recipe", "mine.yaml")
    assert said.code == 0
    assert "always_right" in said.out
    assert "100.0" in said.out
