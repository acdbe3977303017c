from __future__ import annotations

import json
from pathlib import Path

import yaml

from robustprune.pipeline import RunResult

from ..pipeline import tiny
from .conftest import Command


def test_a_recipe_is_shown_resolved(command: Command, here: Path) -> None:
    said = command("show", tiny.write(here), "--set", "seed=4", "--set", "objective.eps=8/255")
    assert (said.code, said.err) == (0, "")
    change = {"seed": 4, "objective": {"eps": 8 / 255}}
    assert yaml.safe_load(said.out) == tiny.recipe(change).document()


def test_a_model_is_shown_with_its_layers_and_densities(command: Command, small: RunResult) -> None:
    said = command("show", small.folder / "hydra-0.1" / "model.safetensors")
    assert (said.code, said.err) == (0, "")
    origin = yaml.safe_load(said.out.split("prunable layers")[0])
    assert (origin["network"], origin["density"]) == ("hydra-0.1", 0.1)
    rows = [line.split() for line in said.out.splitlines() if "×" in line]
    assert rows == [
        ["0", "32×1×5×5", "80", "800", "0.1"],
        ["2", "64×32×3×3", "1,843", "18,432", "0.09999"],
        ["5", "10×1024", "1,024", "10,240", "0.1"],
    ]


def test_a_run_is_shown_as_its_table(command: Command, small: RunResult) -> None:
    said = command("show", small.folder)
    assert (said.code, said.err) == (0, "")
    columns, rows = small.table()
    assert "tiny, seed 0" in said.out
    for cell in (*columns, *(cell for row in rows for cell in row)):
        assert cell in said.out


def test_check_says_what_would_happen_and_does_not_do_it(command: Command, here: Path) -> None:
    path = tiny.write(here)
    said = command("check", path, "--set", "finetune.epochs=3")
    assert (said.code, said.err) == (0, "")
    for text in ("weights kept, by layer", "optimizer steps, by stage", "tiny.yaml is valid"):
        assert text in said.out
    assert str(Path("runs/tiny/<id>")) in said.out
    resolved = yaml.safe_load(said.out.split("weights kept")[0])
    assert resolved == tiny.recipe({"finetune": {"epochs": 3}}).document()
    assert [found.name for found in here.iterdir()] == ["tiny.yaml"]


def test_the_schema_is_json(command: Command) -> None:
    said = command("schema")
    assert (said.code, said.err) == (0, "")
    schema = json.loads(said.out)
    assert {"name", "data", "model", "objective", "pretrain"} <= schema["else"]["properties"].keys()
