"""``--sparse`` of `evaluate`, `certify` and `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robustprune import kernels
from robustprune.cli.outcome import INTERRUPTED, OK, USAGE
from robustprune.pipeline import RunResult

from ..pipeline.copies import Made, Stop
from .conftest import Command

ATTACK = ["--evaluator", "clean", "--evaluator", "pgd:eps=0.1,steps=2,batch_size=20"]


@pytest.fixture
def model(small: RunResult) -> Path:
    return small.folder / "hydra-0.1" / "model.safetensors"


def written(here: Path, name: str = "found.json") -> Any:
    return json.loads((here / name).read_text())


def test_it_is_asked_for_on_the_command_line(
    command: Command,
    here: Path,
    model: Path,
    made: Made,
) -> None:
    words = ["evaluate", model, *ATTACK, "--samples", "50", "--json", "found.json"]
    assert command(*words).code == OK
    assert "sparse" not in written(here)
    assert command(*words, "--sparse", "on").code == OK
    assert [(e["batch"], e["evaluators"]) for e in written(here)["sparse"]] == [
        (50, ["clean"]),
        (20, ["pgd-2"]),
    ]


def test_smoothing_sees_rounds_of_noise(
    command: Command,
    here: Path,
    model: Path,
    made: Made,
) -> None:
    words = ["certify", model, "--samples", "3", "--n", "100", "--sparse", "on"]
    assert command(*words, "--json", "found.json").code == OK
    assert [entry["batch"] for entry in written(here)["sparse"]] == [100]


def test_verify_attacks_a_copy_and_bounds_the_network(
    command: Command,
    here: Path,
    model: Path,
    made: Made,
) -> None:
    words = ["verify", model, "--samples", "3", "--eps", "0.001", "--bounds", "ibp", "--json"]
    assert command(*words, "off.json", "--sparse", "off").code == OK
    command(*words, "on.json", "--sparse", "on")
    off, on = (written(here, name) for name in ("off.json", "on.json"))
    assert on["metrics"]["verified"] == off["metrics"]["verified"]
    assert [entry["evaluators"] for entry in on["sparse"]] == [["clean", "pgd"]]


def test_what_is_resumed_goes_on_with_the_same_choices(
    command: Command,
    here: Path,
    model: Path,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["evaluate", model, *ATTACK, "--samples", "50", "--sparse", "on", "--state", "state"]
    Stop(monkeypatch, "pgd", 1, network="hydra-0.1")
    assert command(*words, "--json", "resumed.json").code == INTERRUPTED
    assert made.measured == [50, 20]
    assert command(*words, "--json", "resumed.json").code == OK
    assert made.measured == [50, 20]
    assert [e["choices"]["number"] for e in written(here, "resumed.json")["sparse"]] == [1, 2]
    assert [path.name for path in here.iterdir()] == ["resumed.json"]


def test_without_kernels_on_is_an_error_of_one_screen(
    command: Command, here: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "available", lambda: "llvmlite is not installed: do so")
    said = command("evaluate", model, "--sparse", "on")
    assert said.code == USAGE
    assert "sparse: on needs kernels: llvmlite is not installed: do so." in said.err
    assert command("evaluate", model, "--evaluator", "clean", "--samples", "5").code == OK
