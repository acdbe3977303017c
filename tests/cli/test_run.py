"""Running from the command line: its answer, its exit code, and being interrupted."""

from __future__ import annotations

import io
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustprune.cli import main
from robustprune.cli.main import FAULT, INTERRUPTED, OK
from robustprune.errors import InterruptedRun
from robustprune.pipeline import RunResult
from robustprune.pruners import Method

from ..pipeline import tiny
from ..pipeline.steps import watched
from .conftest import Command

EVALUATE = {"evaluate": tiny.RECIPE["evaluate"]}
DENSE = {"prune": None, "finetune": None, "evaluate": []}


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Arranges for something to happen before the n-th optimizer step, once."""

    def arrange(number: int, happens: Callable[[], None]) -> None:
        left = [number]

        def act(network: str, stage: str) -> None:
            left[0] -= 1
            if not left[0]:
                happens()

        monkeypatch.setattr(Method, "step", watched(act))

    return arrange


def test_it_prints_the_table_and_where_everything_is(
    command: Command, here: Path, small: RunResult
) -> None:
    said = command("run", tiny.write(here, tiny.SMALL, EVALUATE), "--out", "a run")
    assert (said.code, said.err) == (OK, "")
    assert "running tiny in a run" in said.out
    assert "dense pretrain 1/2  2/2" in said.out
    assert "written to a run" in said.out
    columns, rows = small.table()
    for cell in (*columns, *(cell for row in rows for cell in row)):
        assert cell in said.out
    assert tiny.models(here / "a run") == tiny.models(small.folder)


def test_the_page_of_a_run_is_named(command: Command, here: Path) -> None:
    path = tiny.write(here, DENSE)
    assert "a page" not in command("run", path, "--out", "a run", "--max-steps", "1").out
    (here / "a run" / "report").mkdir()
    (here / "a run" / "report" / "report.html").write_text("")
    said = command("run", path, "--out", "a run", "--max-steps", "1", "--resume")
    assert "a page to look at: a run/report/report.html" in said.out


def test_the_last_lines_are_about_what_has_happened(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is named although tracking stopped, and a page although none was written."""

    def fail(*args: object, **options: object) -> None:
        raise OSError("out of order")

    monkeypatch.setattr("robustprune.tracking.tracker.Store", fail)
    monkeypatch.setattr("robustprune.pipeline.job.write_report", fail)
    path = tiny.write(here, DENSE, {"tracking": {"enabled": True}})
    said = command("run", path, "--out", "a run", "--max-steps", "1")
    assert said.code == OK
    assert "MLflow tracking stopped: out of order. " in said.err
    assert "the report was not written: out of order" in said.err
    assert "MLflow: tracking stopped" in said.out.splitlines()[-1]
    for untrue in ("sqlite", "a page", "accuracies", "turnover:"):
        assert untrue not in said.out


def test_a_finished_run_without_its_page_is_given_one(command: Command, here: Path) -> None:
    path = tiny.write(here, DENSE, {"tracking": {"enabled": True}})
    words = ("run", path, "--out", "a run", "--max-steps", "1")
    assert "a page to look at" in command(*words).out
    page = here / "a run" / "report" / "report.html"
    assert "unfinished" not in page.read_text()
    page.unlink()
    assert "a page to look at" in command(*words, "--resume").out
    assert "unfinished" not in page.read_text()


def test_quiet_is_quiet(command: Command, here: Path) -> None:
    said = command("run", tiny.write(here, DENSE), "--quiet", "--max-steps", "1")
    assert said == (OK, "", "")
    (folder,) = (here / "runs" / "tiny").iterdir()
    assert (folder / "results.json").is_file()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_is_answered_with_the_line_that_resumes(
    name: str, command: Command, here: Path, stop: Any, small: RunResult
) -> None:
    recipe = tiny.write(here, tiny.SMALL, EVALUATE, {"seed": 7}, name="my recipe.yaml")
    stop(7, lambda: os.kill(os.getpid(), getattr(signal, name)))  # in pruning's second epoch
    said = command("run", recipe, "--out", "a run", "--set", "seed=0", "--quiet")
    assert said.code == INTERRUPTED
    assert said.out == ""
    assert said.err.startswith("interrupted; what was finished is kept.")
    assert {path.name for path in (here / "a run" / "state").glob("*.pt")} == {
        "dense.pretrain.pt",
        "hydra-0.1.prune.pt",
    }
    line = next(x for x in said.err.splitlines() if x.startswith("Resume with: "))
    words = shlex.split(line.removeprefix("Resume with: "))
    assert words[0] == "robustprune"
    resumed = command(*words[1:])
    assert (resumed.code, resumed.err) == (OK, "")
    assert f"resuming tiny in {here / 'a run'}" in resumed.out
    assert "dense pretrain" not in resumed.out
    assert tiny.models(here / "a run") == tiny.models(small.folder)
    assert tiny.results(here / "a run")["networks"] == small.networks


def test_the_line_that_resumes_a_short_run_is_short_too(
    command: Command, here: Path, stop: Any
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    stop(2, interrupt)
    said = command("run", tiny.write(here, DENSE), "--max-steps", "3", "--quiet")
    assert said.code == INTERRUPTED
    words = shlex.split(said.err.split("Resume with: ")[1])
    assert words[-2:] == ["--max-steps", "3"]
    assert command(*words[1:]).code == OK


def test_resume_finds_the_newest_run(command: Command, here: Path, stop: Any) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    stop(4, interrupt)
    recipe = tiny.write(here, DENSE)
    assert command("run", recipe, "--quiet").code == INTERRUPTED
    assert command("run", recipe, "--quiet", "--resume").code == OK
    assert command("run", recipe, "--quiet", "--resume").code == 2
    assert len(list((here / "runs" / "tiny").iterdir())) == 1


def test_an_interruption_before_there_is_a_run(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustprune.datasets.digits.Digits.load", load)
    assert command("run", tiny.write(here)) == (INTERRUPTED, "", "interrupted.\n")


def test_our_own_fault_shows_its_traceback(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: object, **options: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("robustprune.datasets.digits.Digits.load", load)
    said = command("run", tiny.write(here))
    assert said.code == FAULT
    assert "Traceback" in said.err
    assert "KeyError: 'ours'" in said.err
    assert "a fault of robustprune" in said.err.splitlines()[-1]


def test_interrupted_runs_are_interrupts_for_python_too() -> None:
    assert issubclass(InterruptedRun, KeyboardInterrupt)


def test_a_closed_pipe_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def listing(arguments: object) -> None:
        raise BrokenPipeError

    closed = io.StringIO()
    monkeypatch.setattr("robustprune.cli.list_command.command", listing)
    monkeypatch.setattr("sys.stderr", closed)
    assert main(["list"]) == OK
    assert closed.closed
