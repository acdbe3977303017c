"""Recipes that start from weights, and networks of timm's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.artifacts import backends
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import save_model
from robustprune.errors import InvalidError, UsageError
from robustprune.models import create_model
from robustprune.pipeline.plan import plan
from robustprune.tracking import Console

from . import tiny

pytestmark = pytest.mark.slow


DIGITS = {"name": "cnn_digits", "num_classes": 10, "in_chans": 1, "image_size": 8}


def starting(weights: Path | str, *changes: dict[str, Any], train: bool = False) -> list[Any]:
    """Changes of the tiny recipe: its network starts from these weights."""
    pretrain: dict[str, Any] = {} if train else {"pretrain": None}
    return [tiny.SMALL, {"model": {"weights": str(weights)}}, pretrain, *changes]


def state(network: Path) -> dict[str, torch.Tensor]:
    return read_model(network / "model.safetensors").model.state_dict()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], tensor) for name, tensor in right.items())


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A plain state dict."""
    torch.manual_seed(3)
    torch.save(create_model(**DIGITS).state_dict(), tmp_path / "plain.pt")
    return tmp_path / "plain.pt"


def test_pretraining_is_skipped_and_the_dense_network_is_the_file_s(
    tmp_path: Path, plain: Path
) -> None:
    result = tiny.go(tmp_path / "run", *starting(plain))
    assert same(state(result.folder / "dense"), torch.load(plain, weights_only=True))
    assert not (result.folder / "dense" / "history.json").exists()
    assert result.network("hydra-0.1")["turnover"] > 0
    metadata = read_model(result.folder / "hydra-0.1" / "model.safetensors").metadata
    assert metadata["weights"]["file"] == "plain.pt"
    assert metadata["weights"]["sha256"] == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert str(tmp_path) not in str(metadata)


@pytest.mark.slow
def test_pretraining_may_go_on_from_them(tmp_path: Path, plain: Path) -> None:
    once = tiny.go(tmp_path / "one", *starting(plain, train=True))
    fresh = tiny.go(tmp_path / "two", tiny.SMALL)
    assert not same(state(once.folder / "dense"), torch.load(plain, weights_only=True))
    assert not same(state(once.folder / "dense"), state(fresh.folder / "dense"))


@pytest.mark.parametrize("format", ["run", "dense", "packed", "onnx"])
def test_every_file_of_ours_gives_the_same_start(tmp_path: Path, folder: Path, format: str) -> None:
    source = folder / "dense" / "model.safetensors"
    path = source
    if format != "run":
        path = tmp_path / ("net.onnx" if format == "onnx" else "net.safetensors")
        backends.create(format).export(read_model(source), path)
    result = tiny.go(tmp_path / "run", *starting(path), {"prune": None, "finetune": None})
    assert same(state(result.folder / "dense"), read_model(source).model.state_dict())


def test_what_check_says_of_pruned_weights(folder: Path) -> None:
    said: list[str] = []
    plan(tiny.recipe(*starting(folder / "hydra-0.1" / "model.safetensors")), warn=said.append)
    assert "is pruned to density 0.09999" in said[0]


def test_a_pruned_file_counts_as_a_dense_network_and_that_is_said(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder / "hydra-0.1" / "model.safetensors"
    result = tiny.go(
        tmp_path / "run",
        *starting(source),
        {"prune": None, "finetune": None},
        console=Console(),
    )
    assert "is pruned to density 0.09999: here it counts as a dense network" in "".join(
        capsys.readouterr()
    )
    assert result.network("dense")["kept"] == 29_472


@pytest.mark.slow
def test_a_run_from_weights_can_be_resumed(tmp_path: Path, plain: Path) -> None:
    whole = tiny.go(tmp_path / "whole", *starting(plain))
    cut = tiny.go(tmp_path / "cut", *starting(plain))
    (cut.folder / "hydra-0.1" / "model.safetensors").unlink()
    (cut.folder / "state" / "finished").unlink()
    again = tiny.go(tmp_path / "cut", *starting(plain), resume=True)
    assert tiny.models(again.folder) == tiny.models(whole.folder)


def unfinished(folder: Path, *networks: str) -> None:
    """Take a run back to before some of its networks were saved."""
    for network in networks:
        (folder / network / "model.safetensors").unlink()
    (folder / "state" / "finished").unlink()


def test_a_last_layer_that_nobody_trained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustprune.models.pretrained.load_into", lambda *_: None)
    model = {"model": {"name": "test_resnet", "weights": "pretrained"}}
    with pytest.raises(UsageError, match=r"tell 1000 classes apart, and 10 are needed.*'pretrain:"):
        plan(tiny.recipe(tiny.SMALL, model, {"pretrain": None}))
    plan(tiny.recipe(tiny.SMALL, model))  # it is going to be trained
    with pytest.raises(UsageError, match=r"classes are n01440764.*'digits' are 0, 1"):
        plan(tiny.recipe(tiny.SMALL, model, {"pretrain": None, "model": {"num_classes": 1000}}))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["another", "deleted"])
def test_once_begun_a_run_says_what_it_began_with(tmp_path: Path, plain: Path, change: str) -> None:
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    whole = tiny.go(tmp_path / "whole", *starting(plain))
    cut = tiny.go(tmp_path / "cut", *starting(plain))
    unfinished(cut.folder, "hydra-0.1")
    if change == "another":
        torch.save(create_model(**DIGITS).state_dict(), plain)
    else:
        plain.unlink()
    again = tiny.go(tmp_path / "cut", *starting(plain), resume=True)
    assert tiny.models(again.folder) == tiny.models(whole.folder)
    metadata = read_model(again.folder / "hydra-0.1" / "model.safetensors").metadata
    assert metadata["weights"]["sha256"] == digest


def test_a_run_does_not_go_on_from_other_weights(tmp_path: Path, plain: Path) -> None:
    cut = tiny.go(tmp_path / "cut", *starting(plain))
    unfinished(cut.folder, "dense", "hydra-0.1")
    torch.save(create_model(**DIGITS).state_dict(), plain)
    with pytest.raises(UsageError, match=r"plain\.pt has changed since the run began"):
        tiny.go(tmp_path / "cut", *starting(plain), resume=True)


def test_weights_of_another_image_size_are_told(tmp_path: Path) -> None:
    source = tmp_path / "large.safetensors"
    large = {**DIGITS, "image_size": 16, "mean": [0.0], "std": [1.0]}
    save_model(source, create_model(**large), masks={}, metadata={"model": large})
    with pytest.raises(UsageError, match="does not fit model 'cnn_digits' for images of this data"):
        tiny.go(tmp_path / "run", *starting(source))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "cnn_small"}}, "does not fit model 'cnn_small': "),
        ({"model": {"weights": "nowhere.pt"}}, "there is no model file nowhere.pt"),
        ({"model": {"weights": "pretrained"}}, "'cnn_digits' has no pretrained weights"),
        ({"model": {"num_classes": 12}}, r"5.weight has shape \(10, 1024\), not \(12, 1024\)"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_found_before_anything_is_written(
    tmp_path: Path, plain: Path, change: dict[str, Any], message: str
) -> None:
    changes = starting(plain, change)
    with pytest.raises(UsageError, match=message):
        plan(tiny.recipe(*changes))
    with pytest.raises(UsageError, match=message):
        tiny.go(tmp_path / "run", *changes)
    assert not (tmp_path / "run").exists()


def test_one_of_our_files_must_be_of_the_recipe_s_very_network(
    tmp_path: Path, folder: Path
) -> None:
    changes = starting(folder / "dense" / "model.safetensors", {"model": {"std": [0.5]}})
    with pytest.raises(UsageError, match=r"std is \[1.0\] in the file and \[0.5\] here"):
        tiny.go(tmp_path / "run", *changes)


def test_without_weights_a_recipe_must_train() -> None:
    from robustprune.recipe import inconsistencies

    (problem,) = inconsistencies(tiny.recipe({"pretrain": None}))
    assert str(problem).startswith(
        "pretrain: this key is required. Trains the dense network. Keys: "
    )
    with pytest.raises(InvalidError, match="pretrain"):
        tiny.go(Path("nowhere"), {"pretrain": None})


def test_the_plan_leaves_out_what_is_not_trained(plain: Path) -> None:
    planned = plan(tiny.recipe(*starting(plain)))
    assert [row[:2] for row in planned.steps()[1]] == [
        ["hydra-0.1", "prune"],
        ["hydra-0.1", "finetune"],
        ["all", ""],
    ]


def test_metrics_stand_in_the_file_of_the_network(folder: Path) -> None:
    results = {entry["name"]: entry for entry in tiny.results(folder)["networks"]}
    for name in tiny.NETWORKS:
        found = read_model(folder / name / "model.safetensors").metadata["metrics"]
        assert found == results[name]["metrics"]


TIMM: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_convnext": {"patch_size": 1},
    "test_vit": {"img_size": 8, "patch_size": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_are_pruned_finetuned_exported_and_loaded(
    tmp_path: Path, name: str
) -> None:
    stage = {"epochs": 1, "batch_size": 8}
    changes = {
        "data": {"subset": 16},
        "model": {"name": name, "args": TIMM[name]},
        "objective": {"steps": 1},
        "pretrain": stage,
        "prune": {**stage, "densities": [0.1], "methods": ["hydra"]},
        "finetune": stage,
        "evaluate": [{"name": "clean", "samples": 8}],
    }
    result = tiny.go(tmp_path / "run", changes, max_steps=1)
    entry = result.network("hydra-0.1")
    assert entry["kept"] == pytest.approx(0.1 * entry["prunable"], rel=0.01)
    saved = read_model(result.folder / "hydra-0.1" / "model.safetensors")
    backends.create("packed").export(saved, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").stat().st_size < 0.2 * (
        result.folder / "hydra-0.1" / "model.safetensors"
    ).stat().st_size
    images = torch.rand(2, 1, 8, 8)
    again = read_model(tmp_path / "net.safetensors").model
    with torch.no_grad():
        assert torch.equal(again(images), saved.model(images))
