"""Help and errors answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from robustprune import __version__, objectives
from robustprune.cli.parser import parser

from ..pipeline import tiny
from .conftest import Command

COMMANDS = ["run", "check", "list", "show", "evaluate", "certify", "verify"]
COMMANDS += ["export", "import-hydra", "report", "compare", "ui", "schema"]
HEAVY = ["torch", "timm", "mlflow", "torchattacks", "accelerate", "sklearn", "pyarrow", "scipy"]
HEAVY += ["matplotlib", "jinja2"]

_SCRIPT = """
import contextlib, io, json, sys
from robustprune.cli import main
found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    found.append([code, out.getvalue(), err.getvalue(), heavy])
print(json.dumps(found))
"""


def fresh(*lines: list[str]) -> list[tuple[int, str, str, list[str]]]:
    """Commands in a process of their own: code, both streams, heavy imports."""
    words = [sys.executable, "-c", _SCRIPT, json.dumps(lines), json.dumps(HEAVY)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return [tuple(answer) for answer in json.loads(ran.stdout)]


def test_the_commands_are_these() -> None:
    (subparsers,) = (action for action in parser()._actions if action.choices)
    assert list(subparsers.choices or ()) == COMMANDS


def test_help_imports_nothing_heavy() -> None:
    answers = fresh(["--help"], ["--version"], *([name, "--help"] for name in COMMANDS))
    assert [code for code, *_ in answers] == [0] * len(answers)
    (_, overview, err, _), (_, version, *_), *details = answers
    assert err == ""
    assert version == f"robustprune {__version__}\n"
    assert all(name in overview for name in COMMANDS)
    assert all("usage: robustprune" in out and "options:" in out for _, out, *_ in details)
    assert answers[-1][3] == []


def test_a_mistake_in_a_recipe_is_told_without_importing_torch(tmp_path: Path) -> None:
    recipe = tiny.write(tmp_path, {"pretrain": {"epoch": 1}})
    ((code, out, err, heavy),) = fresh(["run", str(recipe)])
    assert (code, out) == (2, "")
    assert "Did you mean 'epochs'?" in err
    assert heavy == []


def test_parts_are_listed_without_importing_torch() -> None:
    ((code, out, err, heavy),) = fresh(["list"])
    assert (code, err) == (0, "")
    assert f"objectives: {', '.join(objectives.names())}\n" in out
    assert heavy == []


def test_the_installed_command_is_the_same(tmp_path: Path) -> None:
    """Exit code and streams of a real process."""
    script = Path(sys.executable).with_name("robustprune")
    if not script.exists():
        pytest.skip("the package is not installed")
    ran = subprocess.run([script, "run", tmp_path / "none.yaml"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: cannot read the recipe")


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_are_valid(name: str, command: Command) -> None:
    text = command(name, "--help").out
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("robustprune ")]
    for line in lines:
        words = line.split("     ")[0].split(">")[0].split()[1:]
        assert parser().parse_args(words)
