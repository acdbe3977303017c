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
from robustprune.cli.outcome import FAULT, INTERRUPTED, OK
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


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
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

    monkeypatch.setattr("robustprune.tracking.store.Store", fail)
    monkeypatch.setattr("robustprune.pipeline.runner.write_report", fail)
    path = tiny.write(here, DENSE, {"tracking": {"enabled": True}})
    said = command("run", path, "--out", "a run", "--max-steps", "1")
    assert said.code == OK
    assert "MLflow tracking stopped: out of order. " in said.err
    assert "the report was not written: out of order" in said.err
    assert "MLflow: tracking stopped" in said.out.splitlines()[-1]
    for untrue in ("sqlite", "a page", "accuracies", "turnover:"):
        assert untrue not in said.out


def test_quiet_is_quiet(command: Command, here: Path) -> None:
    said = command("run", tiny.write(here, DENSE), "--quiet", "--max-steps", "1")
    assert said == (OK, "", "")
    (folder,) = (here / "runs" / "tiny").iterdir()
    assert (folder / "results.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_is_answered_with_the_line_that_resumes(
    name: str, command: Command, here: Path, stop: Any, small: RunResult
) -> None:
    recipe = tiny.write(here, tiny.SMALL, EVALUATE, {"seed": 7}, name="my recipe.yaml")
    stop(7, lambda: os.kill(os.getpid(), getattr(signal, name)))  # in pruning's second epoch
    said = command("run", recipe, "--out", "a run", "--set", "seed=0")
    assert said.code == INTERRUPTED
    assert said.err.startswith("interrupted; what was finished is kept.")
    kept = {path.name for path in (here / "a run" / "state").glob("*.pt")}
    assert kept == {"dense.pretrain.pt", "hydra-0.1.prune.pt"}
    resumed = command(*resuming(said.err))
    assert (resumed.code, resumed.err) == (OK, "")
    assert "resuming tiny in a run" in resumed.out
    assert "dense pretrain" not in resumed.out
    assert tiny.models(here / "a run") == tiny.models(small.folder)
    assert tiny.results(here / "a run")["networks"] == small.networks


def resuming(err: str) -> list[str]:
    """The words after ``robustprune`` of the line that resumes."""
    program, *words = shlex.split(err.partition("Resume with: ")[2])
    assert program == "robustprune"
    return words


def test_a_short_run_is_resumed_by_its_line_or_as_the_newest_one(
    command: Command, here: Path, stop: Any
) -> None:
    words = ("run", tiny.write(here, DENSE), "--max-steps", "3", "--quiet")
    stop(2, interrupt)
    said = command(*words)
    assert said.code == INTERRUPTED
    assert resuming(said.err) == [*map(str, words), "--resume"]
    stop(1, interrupt)
    assert command(*resuming(said.err)).code == INTERRUPTED
    assert command(*resuming(said.err)).code == OK
    assert command(*resuming(said.err)).code == 2
    assert len(list((here / "runs" / "tiny").iterdir())) == 1


@pytest.mark.parametrize("several", [[], ["--processes", "2"]])
def test_an_interruption_while_a_resume_is_set_up_says_how_to_try_again(
    several: list[str], command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def variants(*args: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("robustprune.cli.variants.variants", variants)
    said = command("run", "tiny.yaml", "--out", "run", "--resume", *several)
    assert said.code == INTERRUPTED
    words = ["robustprune run tiny.yaml --out run --resume", *several]
    assert said.err.splitlines()[-1] == f"Resume with: {' '.join(words)}"


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "interrupted."),
        (KeyError("ours"), FAULT, "error: this is a fault of robustprune, not of your input. "),
    ],
)
def test_an_end_before_there_is_a_run(
    error: BaseException,
    code: int,
    last: str,
    command: Command,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("robustprune.datasets.small_images.Digits.load", load)
    said = command("run", tiny.write(here))
    assert (said.code, said.out) == (code, "")
    assert said.err.splitlines()[-1].startswith(last)
    assert ("KeyError: 'ours'" in said.err) == ("Traceback" in said.err) == (code == FAULT)


@pytest.mark.parametrize("words", [["list"], ["schema"]])
def test_a_closed_pipe_is_no_fault(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As of ``robustprune list | head``."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    monkeypatch.setattr("sys.stderr", errors := io.StringIO())
    assert (main(words), errors.getvalue()) == (OK, "")
