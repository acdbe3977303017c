"""A run under each structure, from the recipe to what people see of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustprune import pruners
from robustprune.artifacts import backends
from robustprune.artifacts.card import card_path, write_card
from robustprune.artifacts.reading import read_model
from robustprune.cli.main import main
from robustprune.masking import structures
from robustprune.pipeline import RunResult
from robustprune.pipeline.plan import plan
from robustprune.recipe import Recipe, inconsistencies
from robustprune.report.groups import grouped
from robustprune.report.runs import Results, read_run
from robustprune.report.tables import metrics_table

from . import tiny

METHODS = [
    {"name": "hydra", "structure": "filter", "label": "filters"},
    {"name": "magnitude", "structure": {"name": "n_m", "n": 1, "m": 2}, "label": "halves"},
    {"name": "hydra", "structure": "channel", "label": "channels"},
    {"name": "random", "structure": "block", "exclude": ["2"], "label": "blocks"},
]
CHANGES = {
    "prune": {"methods": METHODS, "densities": [0.5], "epochs": 1},
    "pretrain": {"epochs": 1},
    "finetune": {"epochs": 1},
    "evaluate": [{"name": "clean", "samples": 20}],
}
LEFT = {"filters": ["5"], "halves": ["0"], "channels": ["0"], "blocks": ["2"]}
KEPT = {  # of 800, 18,432 and 10,240 weights
    "filters": 400 + 9216 + 10240,
    "halves": 800 + 9216 + 5120,
    "channels": 800 + 9216 + 5120,
    "blocks": None,
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return tiny.go(tmp_path_factory.mktemp("structures") / "run", CHANGES)


@pytest.mark.slow
def test_counts_are_of_all_prunable_weights_and_layers_without_a_mask_are_named(
    ran: RunResult,
) -> None:
    for label, layers in LEFT.items():
        entry = ran.network(f"{label}-0.5")
        assert entry["left_dense"] == layers
        assert entry["prunable"] == 29472
        assert KEPT[label] in (entry["kept"], None)
    assert "left_dense" not in ran.network("dense")


@pytest.mark.slow
def test_masks_are_of_whole_entries_in_the_file(ran: RunResult) -> None:
    for method in METHODS:
        part = pruners.create(method["name"], structure=method["structure"]).structure
        saved = read_model(ran.folder / f"{method['label']}-0.5" / "model.safetensors")
        for mask in saved.masks.values():
            entries = part.reduce(mask.float()) > 0
            assert bool((part.expand(entries, mask) == mask).all())
            assert int(entries.sum()) == round(0.5 * entries.numel())


def test_it_is_planned_as_it_comes_out(ran: RunResult) -> None:
    planned = plan(tiny.recipe(CHANGES))
    assert planned.left_dense() == LEFT
    columns, rows = planned.kept()
    for label in ("filters", "halves", "channels"):
        column = columns.index(f"{label}-0.5")
        assert rows[-1][column] == f"{ran.network(f'{label}-0.5')['kept']:,}"


def test_people_see_which_layers_are_left_dense(
    ran: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran.left_dense == [
        "layers left dense in filters-0.5: 5",
        "layers left dense in halves-0.5, channels-0.5: 0",
        "layers left dense in blocks-0.5: 2",
    ]
    assert main(["show", str(ran.folder)]) == 0
    assert "layers left dense in halves-0.5, channels-0.5: 0" in capsys.readouterr().out
    file = ran.folder / "filters-0.5" / "model.safetensors"
    assert main(["show", str(file)]) == 0
    assert "layers left dense: 5" in capsys.readouterr().out
    assert main(["check", str(tiny.write(tmp_path, CHANGES))]) == 0
    assert "layers left dense in halves, channels: 0" in capsys.readouterr().out
    saved = read_model(file)
    packed = backends.create("packed")
    path = tmp_path / "net.packed.safetensors"
    write_card(saved, path, packed, packed.export(saved, path))
    card = card_path(path).read_text()
    assert "- Weights kept: 19,856 of 29,472 prunable ones" in card
    assert "- Layers left dense: 5." in card


def test_the_report_names_them(ran: RunResult) -> None:
    (group,) = grouped([read_run(ran.folder)])
    note = metrics_table(group).note
    assert note.startswith("Measured on 20 images. Layers left dense in filters-0.5: 5. Layers")
    assert Results.model_validate(ran.results).networks[0].left_dense == []


def recipe(**pruner: object) -> Recipe:
    return tiny.recipe({"prune": {"methods": ["hydra", {"name": "magnitude", **pruner}]}})


def test_what_a_structure_cannot_do_is_a_problem_of_the_recipe() -> None:
    two = "structure 'n_m' keeps 2 of every 4 weights"
    problems = inconsistencies(recipe(structure="n_m", allocation="erk"))
    assert [problem.place for problem in problems] == [("prune", "methods", 1, "structure")] * 2
    assert problems[0].message.startswith(f"{two}: its density is 0.5, not 0.1, 0.01.")
    assert problems[1].message.startswith(f"{two} in every layer, which allocation 'erk' does not")
    _, few = inconsistencies(recipe(structure="n_m", allocation={"name": "uniform", "minimum": 4}))
    assert "Leave allocation.minimum out" in str(few)
    for name in {*structures.names()} - {"n_m"}:
        assert inconsistencies(recipe(structure=name, allocation="erk")) == []
