"""Help and errors answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from robustprune import __version__
from robustprune.cli.main import COMMANDS, parser

from ..pipeline import tiny
from .conftest import Command

HEAVY = {"timm", "mlflow", "torchattacks", "accelerate", "sklearn", "pyarrow", "matplotlib"}

_SCRIPT = """
import json, sys
from robustprune.cli import main
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
print("@", code, *sys.modules)
"""


def fresh(*lines: list[str]) -> tuple[int, str, str, set[str]]:
    """Type commands in a process of their own: last exit code, both streams, what was imported."""
    words = [sys.executable, "-c", _SCRIPT, json.dumps(lines)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    out, _, end = ran.stdout.rpartition("@ ")
    code, *modules = end.split()
    return int(code), out, ran.stderr, set(modules)


def test_help_imports_nothing_heavy() -> None:
    lines = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    code, out, err, imported = fresh(*lines)
    assert (code, err) == (0, "")
    assert f"\nrobustprune {__version__}\n" in out
    for name, summary in COMMANDS.items():
        assert summary in " ".join(out.split())
        assert f"usage: robustprune {name} " in out
    assert not imported & {*HEAVY, "torch", "numpy", "rich", "pydantic", "yaml"}


@pytest.mark.slow
def test_an_error_in_yaml_imports_no_torch_and_one_in_a_recipe_nothing_heavier(
    tmp_path: Path,
) -> None:
    recipe = tiny.write(tmp_path, {"pretrain": {"epoch": 1}})
    torn = tmp_path / "torn.yaml"
    torn.write_text("name: [")
    for verb in ("check", "run"):
        code, out, err, imported = fresh([verb, str(torn)])
        assert (code, out) == (2, "")
        assert "torn.yaml:1: this is not YAML" in err
        assert not imported & {*HEAVY, "torch"}
    code, out, err, imported = fresh(["check", str(recipe)], ["run", str(recipe)], ["list"])
    assert err.count("Did you mean 'epochs'?") == 2
    assert "objectives: " in out
    assert not imported & HEAVY


@pytest.mark.slow
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
        words = shlex.split(line.split("     ")[0].split(">")[0])[1:]
        assert parser().parse_args(words)
