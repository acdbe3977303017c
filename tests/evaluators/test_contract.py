import functools
import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from robustprune.evaluators import create, names
from robustprune.evaluators.accuracy import interval

from .toys import batch, numbered

OPTIONS = {
    "alpha_crown": {"eps": 0.016, "iterations": 3},
    "autoattack": {"version": "rand", "steps": 3, "eps": 0.02},
    "crown": {"eps": 0.016},
    "crown_ibp": {"eps": 0.016},
    "ibp": {"eps": 0.016},
    "pgd": {"steps": 3, "restarts": 2, "eps": 0.02},
    "smoothing": {"n0": 20, "n": 200, "radius": 0.05},
    "torchattacks": {"attack": "CW", "args": {"steps": 5}, "norm": "l2", "eps": 0.5},
    "verified": {"eps": 0.016, "iterations": 3},
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(75, 6),
    )


def data(sizes=(7, 2)):
    model = network().eval()
    images, labels = batch(model, sum(sizes), wrong=2)
    return numbered(images, labels, sizes)


def evaluate(name, model, *, seed=0, network="dense"):
    evaluator = create(name, **OPTIONS.get(name, {}))
    return list(evaluator.evaluate(model, data(), seed=seed, network=network))


@functools.cache
def usual(name):
    """What an evaluator says of the network by default; computed once."""
    return evaluate(name, network())


@pytest.fixture(params=names())
def name(request):
    return request.param


@pytest.mark.slow
def test_the_metric_is_there_and_has_the_right_length(name):
    metric = create(name, **OPTIONS.get(name, {})).metric
    results = usual(name)
    assert [len(batch[metric]) for batch in results] == [7, 2]
    for batch_results in results:
        assert batch_results[metric].dtype == torch.bool
        for values in batch_results.values():
            assert len(values) == len(batch_results[metric])
            assert not values.requires_grad


def test_the_metric_is_summarised_in_numbers_that_json_knows(name):
    evaluator = create(name, **OPTIONS.get(name, {}))
    first, second = usual(name)
    images = {key: torch.cat([first[key], second[key]]) for key in first}
    metrics = evaluator.summarise(images)
    json.dumps(metrics, allow_nan=False)
    right = int(images[evaluator.metric].sum())
    assert metrics[evaluator.metric] == right / 9
    assert metrics[f"{evaluator.metric}_n"] == 9
    assert metrics[f"{evaluator.metric}_interval"] == list(interval(right, 9))


def test_the_ball_that_is_searched_or_promised_is_one(name):
    evaluator = create(name, **OPTIONS.get(name, {}))
    for threat in (evaluator.refutes, evaluator.claims):
        assert threat is None or (threat.norm in ("linf", "l2") and threat.eps > 0)
    assert evaluator.refutes is None or evaluator.claims is None


def test_misclassified_images_never_count(name):
    metric = create(name, **OPTIONS.get(name, {})).metric
    results = usual(name)
    assert results[0][metric][:2].tolist() == [False, False]


def test_the_label_renames_the_metric(name):
    evaluator = create(name, **OPTIONS.get(name, {}), label="mine")
    results = next(evaluator.evaluate(network(), data(), seed=0, network="dense"))
    assert "mine" in results
    assert all(key.startswith("mine") for key in results)


@pytest.mark.slow
def test_the_network_is_left_as_found(name):
    model = network().train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(name, model)
    assert [module.training for module in model.modules()] == [
        module is not model[1] for module in model.modules()
    ]
    assert [p.requires_grad for p in model.parameters()] == [True, False] + [True] * 4
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_images(name):
    first = usual(name)
    torch.manual_seed(12345)
    with torch.no_grad():  # works where gradients are switched off, too
        second = evaluate(name, network())
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_global_generators_are_left_alone(name):
    evaluator = create(name, **OPTIONS.get(name, {}))
    model, batches = network(), data()[1:]
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    list(evaluator.evaluate(model, batches, seed=0, network="dense"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@pytest.mark.slow
def test_works_on_channels_last_networks(name):
    results = evaluate(name, network().to(memory_format=torch.channels_last))
    assert len(results) == 2
