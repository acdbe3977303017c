"""What may change the bits of a network, and what may not."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import robustprune as rp
from robustprune.artifacts.reading import read_model

from . import tiny


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_files_whatever_was_drawn_before(
    folder: Path, tmp_path: Path
) -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    again = tiny.go(tmp_path / "again")
    assert tiny.models(again.folder) == tiny.models(folder)
    assert tiny.results(again.folder) == tiny.results(folder)
    for name in tiny.NETWORKS:
        for file in (f"{name}/history.json", f"{name}/images.parquet"):
            assert (again.folder / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.slow
def test_a_run_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tiny.go(tmp_path / "run", tiny.SMALL, {"evaluate": [{"name": "pgd", "samples": 4}]})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_evaluators_change_no_weights(tmp_path: Path) -> None:
    """AutoAttack reseeds the global generator."""
    judged = tiny.go(tmp_path / "judged", tiny.SMALL, {"evaluate": [tiny.AUTOATTACK]})
    alone = tiny.go(tmp_path / "alone", tiny.SMALL)
    assert judged.network("hydra-0.1")["metrics"]["autoattack-2_n"] == 32
    assert alone.network("hydra-0.1")["metrics"] == {}
    assert weights(judged.folder) == weights(alone.folder)


@pytest.mark.slow
def test_a_network_does_not_depend_on_the_others_of_its_recipe(
    folder: Path, tmp_path: Path
) -> None:
    only = {"prune": {"methods": ["hydra"], "densities": [0.01]}}
    alone = tiny.go(tmp_path / "run", only)
    assert tiny.models(alone.folder) == {
        name: content
        for name, content in tiny.models(folder).items()
        if name in ("dense", "hydra-0.01")
    }
    assert alone.network("hydra-0.01") == tiny.results(folder)["networks"][2]


@pytest.mark.slow
def test_seeds_give_different_networks(folder: Path, tmp_path: Path) -> None:
    folders = [folder, *(tmp_path / str(seed) for seed in (1, 2))]
    for seed in (1, 2):
        tiny.go(folders[seed], tiny.SMALL, {"seed": seed})
    for name in ("dense", "hydra-0.1"):
        assert len({weights(run)[name] for run in folders}) == 3


@pytest.mark.slow
def test_the_front_door_runs_a_recipe_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny.write(tmp_path, tiny.SMALL, {"prune": None, "finetune": None})
    first = rp.run(path, overrides=["pretrain.epochs=1"], fresh=True)
    second = rp.run(path, overrides=["pretrain.epochs=1"], fresh=True)
    assert first.folder.parent == second.folder.parent == Path("runs/tiny")
    assert first.folder != second.folder
    assert tiny.models(first.folder) == tiny.models(second.folder)


def weights(folder: Path) -> dict[str, str]:
    """A digest of each network's tensors; the metadata names the evaluators and the seed."""
    found = {}
    for path in folder.glob("*/model.safetensors"):
        saved = read_model(path)
        digest = hashlib.sha256()
        for name, tensor in sorted(saved.model.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        for name, mask in sorted(saved.masks.items()):
            digest.update(name.encode() + mask.numpy().tobytes())
        found[path.parent.name] = digest.hexdigest()
    return found
