"""What a run leaves behind."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from robustprune.artifacts.reading import load_model, read_model
from robustprune.evaluators.accuracy import interval, measured
from robustprune.pipeline import RunResult
from robustprune.recipe import load_recipe
from robustprune.version import __version__

from . import tiny


@pytest.mark.slow
def test_the_folder_holds_these_files_and_no_others(folder: Path) -> None:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    each = ("model.safetensors", "history.json", "images.parquet")
    network_files = {f"{n}/{f}" for n in tiny.NETWORKS for f in each}
    state = {f"state/{f}" for f in ("run.json", "finished", "lock")}
    assert found == {"recipe.yaml", "results.json"} | network_files | state


@pytest.mark.slow
def test_the_resolved_recipe_loads_back_to_the_same(folder: Path) -> None:
    again = load_recipe(folder / "recipe.yaml")
    assert again == tiny.recipe()
    assert again.document() == tiny.recipe().document()
    assert again.document()["pretrain"]["optimizer"]["momentum"] == 0.9  # a default, written out


def test_results_name_the_run_and_what_bits_depend_on(finished: RunResult, folder: Path) -> None:
    results = tiny.results(folder)
    assert results == finished.results
    assert (results["version"], results["robustprune"]) == (1, __version__)
    assert (results["recipe"], results["seed"]) == ("tiny", 0)
    environment = results["environment"]
    assert environment["torch"] == metadata.version("torch")
    assert (environment["device"], environment["threads"]) == ("cpu", 1)
    assert results["params"] == tiny.recipe().document()


def test_results_have_an_entry_for_each_network_in_order(finished: RunResult) -> None:
    facts = [(e["name"], e["pruner"], e["density"]) for e in finished.networks]
    assert facts == [
        ("dense", None, 1.0),
        ("hydra-0.1", "hydra", 0.1),
        ("hydra-0.01", "hydra", 0.01),
        ("magnitude-0.1", "magnitude", 0.1),
        ("magnitude-0.01", "magnitude", 0.01),
    ]
    assert finished.network("hydra-0.01") is finished.networks[2]


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_kept_is_the_sum_of_the_saved_masks(finished: RunResult, folder: Path, name: str) -> None:
    entry = finished.network(name)
    assert entry["model"] == f"{name}/model.safetensors"
    with safe_open(folder / entry["model"], framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    masks = {key: mask for key, mask in tensors.items() if key.endswith("_mask")}
    weights = [t for key, t in tensors.items() if t.ndim > 1 and key not in masks]
    assert entry["prunable"] == sum(weight.numel() for weight in weights) == 29_472
    if name == "dense":
        assert masks == {}
        assert entry["kept"] == entry["prunable"]
        return
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert entry["kept"] == sum(int(mask.sum()) for mask in masks.values())
    assert entry["kept"] == sum(round(w.numel() * entry["density"]) for w in weights)
    for key, mask in masks.items():
        assert not tensors[key.removesuffix("_mask")][~mask].any()


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_metrics_are_fractions_with_their_images_and_interval(
    finished: RunResult, name: str
) -> None:
    metrics = finished.network(name)["metrics"]
    assert measured([metrics]) == {"clean": True, "pgd": True}
    for metric, n in (("clean", 100), ("pgd", 64)):
        correct = round(metrics[metric] * n)
        assert metrics[metric] == correct / n
        assert metrics[f"{metric}_n"] == n
        assert metrics[f"{metric}_interval"] == pytest.approx(list(interval(correct, n)))
    assert metrics["pgd"] <= metrics["clean"] + 0.2


@pytest.mark.parametrize("name", tiny.NETWORKS)
def test_history_has_each_epoch_of_each_phase(folder: Path, name: str) -> None:
    history = json.loads((folder / name / "history.json").read_text())
    stages = {"dense": ["pretrain"], "hydra": ["prune", "finetune"], "magnitude": ["finetune"]}
    expected = [(stage, epoch) for stage in stages[name.split("-")[0]] for epoch in (1, 2)]
    assert [(entry["stage"], entry["epoch"]) for entry in history] == expected
    for entry in history:
        assert {"loss", "accuracy"} <= entry["metrics"].keys()
        assert ("turnover" in entry["metrics"]) == (entry["stage"] == "prune")


def test_hydra_has_a_turnover_and_magnitude_none(finished: RunResult, folder: Path) -> None:
    turnovers = {entry["name"]: entry["turnover"] for entry in finished.networks}
    assert turnovers["dense"] is None
    assert turnovers["magnitude-0.1"] == turnovers["magnitude-0.01"] == 0
    for name in ("hydra-0.1", "hydra-0.01"):
        assert 0 < turnovers[name] < 1
        history = json.loads((folder / name / "history.json").read_text())
        learned = [entry["metrics"]["turnover"] for entry in history if entry["stage"] == "prune"]
        assert turnovers[name] == learned[-1]


def test_model_files_say_where_they_come_from_but_not_when_or_where(folder: Path) -> None:
    origin = read_model(folder / "hydra-0.1" / "model.safetensors").metadata
    assert origin["network"] == "hydra-0.1"
    assert origin["pruner"]["name"] == "hydra"
    assert (origin["recipe"], origin["seed"], origin["density"]) == ("tiny", 0, 0.1)
    assert origin["objective"]["eps"] == 0.1
    assert [part["name"] for part in origin["evaluate"]] == ["clean", "pgd"]
    assert str(folder) not in json.dumps(origin)
    assert str(folder.parent.name) not in json.dumps(origin)


def test_saved_networks_are_plain_and_in_eval_mode(folder: Path) -> None:
    model = load_model(folder / "hydra-0.01" / "model.safetensors")
    assert not model.training
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_table_shows_each_network_and_accuracy(finished: RunResult) -> None:
    columns, rows = finished.table()
    assert columns == ["network", "density", "kept", "turnover", "clean %", "pgd %"]
    assert [row[0] for row in rows] == tiny.NETWORKS
    assert rows[0][2] == "29,472"
    assert rows[0][3] == "–"
    clean = finished.network("dense")["metrics"]
    low, high = clean["clean_interval"]
    assert rows[0][4] == f"{100 * clean['clean']:.1f} ± {50 * (high - low):.1f}"
