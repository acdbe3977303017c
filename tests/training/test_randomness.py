import random

import numpy as np
import pytest
import torch

from tests.training import toys
from tests.training.toys import (
    BENIGN,
    FREE,
    KINDS,
    prepared,
    same,
    state_file,
    trainer,
    weights,
)


def generators():
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


@pytest.mark.parametrize("objective", [FREE, toys.Noisy()], ids=["free", "noisy"])
def test_a_run_leaves_the_global_generators_alone(tmp_path, objective):
    _, setting = prepared("prune")
    python, arrays, tensors = generators()
    toys.train(trainer(objective), setting, state_file(tmp_path))
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), tensors)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), arrays, strict=True))


def test_what_was_drawn_before_a_run_does_not_matter(tmp_path):
    results = []
    for draws in (0, 17):
        model, setting = prepared("pretrain")
        torch.rand(draws)
        toys.train(trainer(toys.Noisy()), setting, state_file(tmp_path, str(draws)))
        results.append(weights(model))
    assert same(*results)


def test_the_seed_and_the_networks_name_decide_the_draws(tmp_path):
    results = []
    for seed, name in ((5, "toy"), (6, "toy"), (5, "other")):
        model, setting = prepared("pretrain", network=name)
        run = trainer(BENIGN)
        run.seed = seed
        toys.train(run, setting, state_file(tmp_path, f"{seed}-{name}"))
        results.append(weights(model))
    assert not same(results[0], results[1])
    assert not same(results[0], results[2])


def with_and_without_validation(tmp_path, kind, objective, **options):
    for validation in (True, False):
        model, setting = prepared(kind, **options)
        data = toys.splits(validation=validation)
        run = trainer(objective, data)
        history = toys.train(run, setting, state_file(tmp_path, str(validation)))
        yield weights(model), history


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", [BENIGN, FREE, toys.Noisy()], ids=["benign", "free", "noisy"])
def test_validation_does_not_change_what_is_trained(tmp_path, kind, objective):
    (one, watched), (other, alone) = with_and_without_validation(tmp_path, kind, objective)
    assert same(one, other)
    shared = [{k: v for k, v in entry.items() if "val_" not in k} for entry in watched]
    assert shared == alone
    assert all({"val_loss", "val_accuracy"} <= entry.keys() for entry in watched)
