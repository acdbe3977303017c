import random

import numpy as np
import pytest
import torch

from robustprune.training import optimizers, schedules
from tests.training import toys
from tests.training.toys import (
    BENIGN,
    FREE,
    KINDS,
    MASKS,
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
    model, phase = prepared("prune")
    python, arrays, tensors = generators()
    trainer(objective).run(phase, model, state_file(tmp_path))
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), tensors)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), arrays, strict=True))


def test_what_was_drawn_before_a_run_does_not_matter(tmp_path):
    results = []
    for draws in (0, 17):
        model, phase = prepared("pretrain")
        torch.rand(draws)
        trainer(toys.Noisy()).run(phase, model, state_file(tmp_path, str(draws)))
        results.append(weights(model))
    assert same(*results)


def test_the_seed_and_the_networks_name_decide_the_draws(tmp_path):
    results = []
    for seed, name in ((5, "toy"), (6, "toy"), (5, "other")):
        model, phase = prepared("pretrain", network=name)
        run = trainer(BENIGN)
        run.seed = seed
        run.run(phase, model, state_file(tmp_path, f"{seed}-{name}"))
        results.append(weights(model))
    assert not same(results[0], results[1])
    assert not same(results[0], results[2])


def with_and_without_validation(tmp_path, kind, objective, **options):
    for validation in (True, False):
        model, phase = prepared(kind, **options)
        data = toys.splits(validation=validation)
        run = trainer(objective, data)
        history = run.run(phase, model, state_file(tmp_path, str(validation)))
        yield weights(model), history


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", [BENIGN, FREE, toys.Noisy()], ids=["benign", "free", "noisy"])
def test_validation_does_not_change_what_is_trained(tmp_path, kind, objective):
    (one, watched), (other, alone) = with_and_without_validation(tmp_path, kind, objective)
    for tensors in (one, other):
        for mask in MASKS:
            tensors.pop(mask, None)  # the next test's
    assert same(one, other)
    shared = [{k: v for k, v in entry.items() if k in ("loss", "accuracy")} for entry in watched]
    assert shared == [{k: v for k, v in entry.items() if k != "turnover"} for entry in alone]
    assert all({"val_loss", "val_accuracy"} <= entry.keys() for entry in watched)


def test_validation_does_not_change_the_masks_that_are_handed_on(tmp_path):
    steady = {
        "optimizer": optimizers.create("sgd", lr=20),
        "schedule": schedules.create("constant"),
    }
    (one, _), (other, _) = with_and_without_validation(tmp_path, "prune", BENIGN, **steady)
    assert same(one, other)
