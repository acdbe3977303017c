"""Tuning from the command line: its answer, its exit code, and being interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustprune.cli.outcome import FAULT, INTERRUPTED, OK, USAGE
from robustprune.pruners import Method

from ..jobs import environment
from ..pipeline import tiny
from ..pipeline.steps import interrupting
from .conftest import Command
from .test_many import CHANGE, FRAIL

VALIDATED = ({**tiny.SMALL}, {"data": {"validation": 0.25}})
OVER = ("--over", "prune.optimizer.lr=log(0.1,1000)", "--trials", "2", "--max-steps", "1")


@pytest.mark.slow
def test_it_prints_a_line_for_each_trial_a_table_and_where_the_best_recipe_is(
    command: Command, here: Path
) -> None:
    said = command("tune", tiny.write(here, *VALIDATED), *OVER, "--out", "a study")
    assert (said.code, said.err) == (OK, "")
    lines = said.out.splitlines()
    assert lines[0] == "tuning tiny in a study"
    for number in (0, 1):
        start = f"trial {number} ({number + 1} of 2): prune.optimizer.lr="
        assert any(line.startswith(start) for line in lines)
    assert sum(line.split()[-1:] == ["best"] for line in lines) == 1
    assert "as a recipe: a study/best.yaml" in lines
    assert command("check", "a study/best.yaml").code == OK


@pytest.mark.slow
@pytest.mark.parametrize("out", [(), ("--out", "a study")])
def test_an_interrupted_study_says_how_to_resume_it(
    out: tuple[str, ...], command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(here, *VALIDATED)
    with monkeypatch.context() as patch:
        patch.setattr(Method, "step", interrupting(3))
        said = command("tune", "tiny.yaml", *OVER, *out)
    assert said.code == INTERRUPTED
    last = said.err.splitlines()[-1]
    assert last.startswith("Resume with: robustprune tune tiny.yaml --over 'prune.optimizer.lr=log")
    assert last.endswith("--resume")
    said = command("tune", "tiny.yaml", *OVER, *out, "--resume")
    assert said.code == OK
    assert said.out.startswith("going on with tuning tiny in ")
    assert command("tune", "tiny.yaml", *OVER, "--resume").code == USAGE, "there is none left"


@pytest.mark.slow
@pytest.mark.usefixtures("own_parts")
def test_trials_at_once_come_to_what_trials_in_turn_do_and_a_killed_one_is_named_and_resumed(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, environment()[name])
    (here / "frail.py").write_text(FRAIL)
    path = tiny.write(here, tiny.SMALL, CHANGE, {"data": {"validation": 0.25}})
    over = ("--over", "prune.optimizer.lr=[10,20]", "--sampler", "grid", "--out", "study")
    (here / "jobs").mkdir()
    (here / "turn").mkdir()
    monkeypatch.chdir(here / "jobs")
    said = command("tune", path, *over, "--jobs", "2")
    assert said.code == FAULT
    (line,) = [line for line in said.err.splitlines() if "was killed by SIGKILL, see " in line]
    log = Path(line.rpartition("see ")[2])
    assert log.is_file()
    assert "error: 1 of 2 trials failed, see above." in said.err
    again = command("tune", path, *over, "--jobs", "2", "--resume", "--storage", "x.journal")
    assert again.code == USAGE, "another storage is another study"
    again = command("tune", path, *over, "--jobs", "2", "--resume")
    assert (again.code, again.err) == (OK, "")
    monkeypatch.chdir(here / "turn")
    turn = command("tune", path, *over, "--storage", "x.journal")
    assert turn.code == OK, turn.err
    table = turn.out[turn.out.index("trial ") :].partition("the best values")[2]
    assert again.out.partition("the best values")[2] == table
    for number in ("0000", "0001"):
        files = [
            tiny.models(here / name / "study" / "trials" / number) for name in ("jobs", "turn")
        ]
        assert files[0] == files[1] != {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "seed=[0,1]"], "cannot be compared"),
        (["--over", "prune.epoch=int(1,2)"], "Did you mean 'epochs'?"),
        (["--over", "prune.epochs=int(2,1)"], "the first number must be below the second one"),
        (["--over", "prune.epochs=int(1,2)", "--sampler", "x"], "no sampler 'x'"),
        (["--over", "prune.epochs=int(1,2)", "--trials", "0"], "--trials"),
        ([], "--over"),
    ],
)
def test_mistakes_exit_with_2_and_train_nothing(
    words: list[str], message: str, command: Command, here: Path
) -> None:
    said = command("tune", tiny.write(here, *VALIDATED), *words)
    assert said.code == USAGE
    assert message in said.err
    assert not (here / "runs").exists()
