"""robustprune where MLflow is not installed: all but tracking works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from robustprune.cli import main

from ..pipeline import tiny

CODE = """
import sys
sys.modules["mlflow"] = None  # importing it raises

import robustprune
from robustprune.cli import main

for name in robustprune.__all__:
    getattr(robustprune, name)
for words in {words}:
    sys.argv = ["robustprune", *words]
    assert main() == 0, words
"""


@pytest.mark.slow
def test_a_recipe_is_checked_run_and_evaluated(tmp_path: Path) -> None:
    recipe = str(tiny.write(tmp_path, tiny.SMALL, {"tracking": {"enabled": False}}))
    words = [
        ["list"],
        ["check", recipe],
        ["run", recipe, "--out", "run", "--max-steps", "1", "--fresh"],
        ["evaluate", "run/dense/model.safetensors", "--evaluator", "clean"],
    ]
    command = [sys.executable, "-c", CODE.format(words=words)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "MLflow: off (tracking.enabled is false)" in found.stdout


def test_a_run_that_would_be_tracked_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    recipe = tiny.write(tmp_path, tiny.SMALL, {"tracking": {"enabled": True}})
    assert main(["run", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "pip install mlflow" in error
    assert "tracking.enabled to false" in error
    assert not (tmp_path / "runs").exists()
