"""The script of a shell's completion, at work in bash."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from robustprune.cli.main import COMMANDS

from .conftest import Command

_TAB = """
source completion.bash
complete -p robustprune
tab() {
  COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
  $(complete -p robustprune | sed 's/.*-F \\([^ ]*\\) .*/\\1/') 2>/dev/null
  echo "${COMPREPLY[*]}"
}
"""
TYPED = {
    "robustprune ev": "evaluate",
    "robustprune evaluate a --evaluator autoa": "autoattack",
    "robustprune evaluate a --dev": "--device",
    "robustprune evaluate a --device c": "cpu",
    "robustprune run mi": "mine.yaml",
    "robustprune run quic": "quickstart",
    "robustprune check paper/harp": "paper/harp_cifar10_vgg16",
    "robustprune run mine.yaml --out re": "results",
    "robustprune list obj": "objectives",
    "robustprune new ev": "evaluator",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_choices_recipes_parts_and_files(
    command: Command, here: Path
) -> None:
    (here / "completion.bash").write_text(command("completion", "bash").out)
    (here / "mine.yaml").touch()
    (here / "results").mkdir()
    lines = [f"tab {shlex.join(shlex.split(typed))}" for typed in ["robustprune ''", *TYPED]]
    script = "\n".join([_TAB, *lines])
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    registered, commands, *completed = ran.stdout.splitlines()
    assert registered.startswith("complete ")
    assert set(commands.split()) == set(COMMANDS)
    assert dict(zip(TYPED, completed, strict=True)) == TYPED


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish"])
def test_there_is_a_script_for_other_shells(shell: str, command: Command) -> None:
    script = command("completion", shell).out
    assert "robustprune" in script
    for word in (*COMMANDS, "autoattack"):
        assert word in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True)
