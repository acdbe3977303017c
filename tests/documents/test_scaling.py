"""The model behind the page on scale: its arithmetic by hand, and its recorded tables."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
import torch

import robustprune as rp

from .markdown import ROOT

RECORDED = ROOT / "benchmarks" / "results" / "scaling" / "scaling.json"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return __import__("scaling_model")


@pytest.fixture
def cluster(model: ModuleType) -> Any:
    """Machines of two GPUs, in numbers that can be reckoned with."""
    gpu = model.Gpu(flops=100, efficiency=0.5, bandwidth=10, launch=1, bare=0.5)
    inside, network = model.Link(10, 0.1), model.Link(1, 1)
    return model.Cluster(gpu=gpu, inside=inside, network=network, per_machine=2, readers=2)


@pytest.fixture
def work(model: ModuleType) -> Any:
    return model.Work(
        image=25,
        backward=0.6,
        operators=3,
        selecting=2,
        gradients=20,
        touched=5,
        selected=10,
        norms=2,
        sums=8,
        state=7,
        activations=3,
        repeats=4,
    )


def test_exchanges_take_a_rings_bytes_and_a_trees_hops(cluster: Any):
    assert cluster.all_reduce(20, 1) == cluster.gather(20, 1) == 0
    assert cluster.all_reduce(20, 2) == pytest.approx(2 * 1 / 2 * 20 / 10 + 2 * 1 * 0.1)
    assert cluster.all_reduce(20, 4) == pytest.approx(2 * 3 / 4 * 20 / 1 + 2 * 2 * 1)
    assert cluster.gather(20, 4) == pytest.approx(3 * 20 / 1 + 2 * 2 * 1)


def test_a_step_on_one_gpu_is_by_hand(model: ModuleType, cluster: Any, work: Any):
    parts = model.step(work, cluster, batch=8, world=1, read=0.5)
    assert parts == pytest.approx(
        {
            "compute": 8 * 25 / 50,
            "update": 5 / 10,
            "norms": 0,
            "exchange": 0,
            "host": 3 * 1,
            "select": 2 * 0.5 + 10 / 10,
            "data": 8 / (2 * 0.5) / 4,
            "step": 4 + 0.5 + 2,
        }
    )


def test_a_step_on_two_gpus_is_by_hand(model: ModuleType, cluster: Any, work: Any):
    parts = model.step(work, cluster, batch=7, world=2, read=0.5)
    assert parts["compute"] == pytest.approx(4 * 25 / 50)  # of the process that has more images
    layer = 1 * 4 / 10 + 0.2  # gathered and added up alike, of two GPUs
    assert parts["norms"] == pytest.approx(2 * (layer + layer))
    assert parts["exchange"] == pytest.approx(2.2 - 0.6 * 2 + 16 / 10 + 0.2)
    assert parts["host"] == pytest.approx(3 + 2 * model.NORM_OPERATORS * 0.5)
    assert parts["step"] == pytest.approx(parts["host"] + 2)

    local = model.step(work, cluster, batch=7, world=2, read=0.5, synchronised=False)
    assert (local["norms"], local["host"]) == (0, 3)
    assert local["step"] == pytest.approx(2 + 0.5 + parts["exchange"] + 2)

    starving = model.step(work, cluster, batch=7, world=2, read=0.001)
    assert starving["step"] == pytest.approx(4 / (2 * 0.001) / 4)


def test_judging_is_dealt_out_in_whole_batches(model: ModuleType, cluster: Any):
    options = {"images": 95, "batch": 10, "read": 100}
    assert model.evaluation(25, cluster, world=4, **options) == pytest.approx(3 * 10 * 25 / 50)
    slow = {**options, "read": 0.5}
    assert model.evaluation(25, cluster, world=4, **slow) == pytest.approx(3 * 10 / (2 * 0.5))


def test_only_activations_are_shared_out(model: ModuleType, work: Any):
    assert model.memory(work, batch=8, world=1) == 7 + 20 + 8 * 3
    assert model.memory(work, batch=8, world=2) == 7 + 2 * 20 + 4 * 3
    assert model.memory(work, batch=8, world=1, accumulate=4) == 7 + 20 + 2 * 3


def test_recorded_tables_are_those_of_the_recorded_costs(model: ModuleType):
    scaling, document = __import__("scaling"), json.loads(RECORDED.read_text())
    recipe = rp.load_recipe(ROOT / "recipes" / "paper" / "imagenet_resnet50_free.yaml")
    assert scaling.tables(scaling.study(document, recipe)) == document["tables"]
    assert scaling.report(document) == (RECORDED.parent / "README.md").read_text()


def test_costs_of_a_tiny_network_are_its_tensors(model: ModuleType):
    costs = __import__("scaling_costs")
    overrides = ["model=test_resnet", "data.classes=10"]
    recipe = rp.load_recipe(ROOT / "recipes/paper/imagenet_resnet50_free.yaml", overrides)
    found = {}
    for setting in costs.settings(recipe, device=torch.device("cpu")):
        found[setting.stage.name] = costs.measure(setting, batch=2, size=32, rounds=1)
    network = rp.create_model("test_resnet", num_classes=10)
    layers = rp.masking.attach(network).report()
    prunable = sum(layer.total for layer in layers)
    every = prunable + sum(p.numel() for p in network.parameters() if p.dim() == 1)
    pretrain, prune, finetune = (found[name] for name in ("pretrain", "prune", "finetune"))
    assert pretrain["gradients"] == finetune["gradients"] == pretrain["momenta"] == 4 * every
    assert (prune["scores"], prune["masks"], pretrain["scores"]) == (4 * prunable, 2 * prunable, 0)
    assert prune["gradients"] < 4 * every  # biases of linear layers stay
    assert prune["selecting"] >= 10 * len(layers)
    assert pretrain["selecting"] == finetune["selecting"] == 0
    assert pretrain["flops"] == prune["flops"] == pytest.approx(3 * pretrain["forward"], rel=0.01)
    assert pretrain["noise"] == 4 * 3 * 32 * 32
    assert prune["kept_once"]["fp32"] >= 4 * prunable > pretrain["kept_once"]["fp32"]
