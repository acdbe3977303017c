"""The command that installs torchattacks and auto-LiRPA. Nothing is installed here."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from .conftest import Command
from .test_mistakes import assert_told

PIP = [sys.executable, "-m", "pip", "install", "--no-deps"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run, in an environment of its own that lacks auto-LiRPA."""
    commands: list[list[str]] = []

    def record(words: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setattr(sys, "base_prefix", "/elsewhere")
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    return commands


def test_what_is_missing_is_installed_without_its_own_pins(
    command: Command, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = command("setup")
    assert (said.code, ran) == (0, [[*PIP, "auto-LiRPA"]])
    assert said.out.splitlines()[0] == " ".join(ran[0])
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    assert command("setup").code == 0
    assert ran[1] == [*PIP, "torchattacks", "auto-LiRPA"]


def test_a_dry_run_and_one_that_finds_both_do_nothing(
    command: Command, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert " ".join([*PIP, "auto-LiRPA"]) in command("setup", "--dry-run").out
    monkeypatch.delitem(sys.modules, "auto_LiRPA")
    assert "are installed in" in command("setup").out
    assert ran == []


def test_uv_does_it_where_there_is_no_pip(
    command: Command, ran: list[list[str]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setenv("PATH", str(here))
    said = command("setup")
    assert (said.code, ran) == (2, [])
    assert " ".join([*PIP, "auto-LiRPA"]) in said.out
    assert "neither pip" in said.err
    uv = here / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    assert command("setup").code == 0
    python = ["--python", sys.executable]
    assert ran == [[str(uv), "pip", "install", *python, "--no-deps", "auto-LiRPA"]]


def test_where_the_system_manages_the_environment_the_line_is_printed(
    command: Command, ran: list[list[str]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    (here / "EXTERNALLY-MANAGED").write_text("")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(here))
    said = command("setup")
    assert (said.code, ran) == (2, [])
    assert " ".join([*PIP, "auto-LiRPA"]) in said.out
    assert "managed by the system" in said.err
    assert "python -m venv" in said.err
    monkeypatch.setenv("PIP_BREAK_SYSTEM_PACKAGES", "1")  # as in a container
    assert command("setup").code == 0
    assert len(ran) == 1


def test_a_failure_of_pip_is_told(
    command: Command, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(subprocess, "run", lambda words, check: failed)
    said = command("setup")
    assert said.code == 2
    assert "ended with exit code 1" in said.err


def test_check_names_all_that_is_not_installed_before_any_data_is_read(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torchattacks", "auto_LiRPA"):
        monkeypatch.setitem(sys.modules, module, None)
    for words in (["check"], ["run"], ["tune", "--over", "finetune.epochs=[1,2]"]):
        verb, *options = words
        told = command(verb, "mnist/cnn_small_crown_ibp", *options)  # whose images are not here
        assert_told(told, "auto_LiRPA (crown_ibp", "\n    robustprune setup")
        assert ("torchattacks (pgd)" in told.err) == (verb != "tune")  # which does not judge
    assert not list(here.iterdir())
