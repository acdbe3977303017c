"""Parts of one's own: a file to start from, its test, and the check of its promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustprune.cli.new import rendered
from robustprune.recipe import load_recipe

from ..documents.markdown import ROOT, blocks
from ..pipeline import tiny
from .conftest import Command
from .test_mistakes import assert_told

KINDS = ("loss", "pruner", "evaluator", "dataset")
TEMPLATES = ROOT / "robustprune" / "templates"


@pytest.fixture
def folder(here: Path, own_parts: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ROBUSTPRUNE_DATA", raising=False)
    return here


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_keeps_its_promises_and_its_lines_make_a_recipe(
    kind: str, command: Command, folder: Path
) -> None:
    said = command("new", kind, f"own_{kind}", "--out", "parts")
    assert said.code == 0
    text = (folder / "parts" / f"own_{kind}.py").read_text()
    assert f'register("own_{kind}")\nclass Own{kind.capitalize()}(' in text
    lines = said.out.partition("relative to it):\n")[2].replace("\n  ", "\n").strip()
    changes = [f"--set={key}={value.strip()}" for key, value in re.findall(r"(\w+):(.*)", lines)
               if key not in ("prune", "methods")]  # fmt: skip
    changes += [f"--set=prune.methods=[own_{kind}]"] if kind == "pruner" else []
    recipe = load_recipe(tiny.write(folder), [c.removeprefix("--set=") for c in changes])
    assert f"own_{kind}" in str(recipe.document())
    checked = command("check", "--part", f"parts/own_{kind}.py")
    assert checked.code == 0
    assert f"'own_{kind}' (" in checked.out
    last = checked.out.splitlines()[-1]
    assert last == "nothing was checked" if kind == "dataset" else re.match(r"all 1\d pro", last)


@pytest.mark.slow
def test_the_tests_that_are_written_pass_as_they_are_and_fail_once_the_part_does(
    command: Command, folder: Path
) -> None:
    for kind in KINDS:
        assert command("new", kind, f"own_{kind}").code == 0

    def tested() -> str:
        words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "."]
        return subprocess.run(words, capture_output=True, text=True).stdout

    assert "8 passed" in tested()
    for file, right, wrong in (
        ("own_loss.py", "label_smoothing=self.smoothing", "label_smoothing=0"),
        ("own_pruner.py", "self.keep(", "dict("),
        ("own_evaluator.py", "== labels", "!= labels"),
        ("own_dataset.py", "if (place / name)", "if not (place / name)"),
    ):
        (folder / file).write_text((folder / file).read_text().replace(right, wrong))
    assert re.search(r"[4-8] failed", tested())


@pytest.mark.parametrize(("kind", "name"), [("evaluator", "gaussian_noise"), ("dataset", "npz")])
def test_the_page_of_parts_shows_what_is_written(kind: str, name: str) -> None:
    page = {block.file: block.text for block in blocks("docs/how-to/parts.md", "python")}
    template = (TEMPLATES / f"{kind}.py.txt").read_text()
    assert rendered(template, name) == page[f"{name}.py"]


def test_names_that_cannot_be_are_refused_and_nothing_is_overwritten(
    command: Command, folder: Path
) -> None:
    (folder / "test_mine.py").write_text("mine")
    assert_told(command("new", "loss", "mine"), "test_mine.py is there already", "--out")
    assert [path.name for path in folder.iterdir()] == ["test_mine.py"]
    assert_told(command("new", "loss", "My-Loss"), "'My-Loss'", "Write my_loss.")
    assert_told(command("new", "loss", "trades"), "'trades' is taken", "my_trades")
    assert_told(command("new", "loss", "torch"), "would hide Python's own 'torch'", "my_torch")
    assert_told(command("new", "loss", "class"), "'class'", "my_class")


def test_a_part_whose_options_must_be_given_is_left_to_a_test(
    command: Command, folder: Path
) -> None:
    text = "import robustprune as rp\n\n\n@rp.objectives.register('needy')\n"
    (folder / "needy.py").write_text(f"{text}class Needy(rp.Objective):\n    beta: float\n")
    said = command("check", "--part", "needy.py")
    assert (said.code, said.out.splitlines()[-1]) == (0, "nothing was checked")
    assert "its options beta have no default" in said.err
