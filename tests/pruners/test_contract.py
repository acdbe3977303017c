"""Promises of every registered pruner."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import allocations, attach
from robustprune.pruners import Context, Method
from robustprune.types import Progress
from tests.pruners.nets import begun, context, network, sections

DENSITIES = (0.05, 1.0)
QUICK = ("uniform", "global")
ALLOCATIONS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in allocations.names()
]
METRICS = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}


@pytest.fixture(params=pruners.names())
def name(request):
    return request.param


@pytest.fixture
def pruner(name):
    return pruners.create(name)


def expected(pruner, density):
    counts = pruner.allocation({n: w.abs() for n, w in attach(network()).weights.items()}, density)
    return sum(counts.values())


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("density", DENSITIES)
def test_the_network_has_the_density_once_its_stages_have_begun(name, allocation, density):
    pruner = pruners.create(name, allocation=allocation)
    if allocation == "uniform_plus" and density < 1:  # its dense convolution alone is more
        with pytest.raises(UsageError, match="Ask for a higher density"):
            begun(pruner, density)
        return
    masked, _, _ = begun(pruner, density)
    assert masked.kept == expected(pruner, density)
    assert masked.kept == pytest.approx(density * 252, abs=2)
    assert masked.turnover == 0
    assert bool(masked.model(torch.rand(2, 2, 5, 5)).isfinite().all())


def test_it_has_the_density_after_each_step_too(pruner):
    masked = attach(network())
    list(run_through(pruner, masked))
    assert masked.kept == expected(pruner, 0.1)


def test_masks_stand_still_where_it_says_so(pruner):
    masked, before = attach(network()), None
    for stage, step in run_through(pruner, masked):
        if pruner.stands_still(stage.name):
            before = masked.masks if step == 0 else before
            assert all(torch.equal(mask, before[name]) for name, mask in masked.masks.items())
    trained = {stage.name.partition("-")[0] for stage in pruner.stages(0.1, sections())}
    assert set(pruner.still) <= trained


def run_through(pruner, masked):
    """The stages, each with the number of steps that it has taken; use it all up."""
    method = pruner.method(context(pruner))
    for stage in pruner.stages(0.1, sections()):
        method.prepare(stage, masked)
        method.begin(stage, masked)
        yield stage, 0
        if stage.options is None:
            continue
        optimizer = torch.optim.SGD(method.param_groups(stage, masked), lr=1.0)
        for step in range(3):
            train(method, stage, masked, optimizer, step)
            yield stage, step + 1


def train(method: Method, stage, masked, optimizer, step: int) -> None:
    images = torch.rand(10, 2, 5, 5, generator=torch.Generator().manual_seed(step))

    def closure(*, again=False):
        optimizer.zero_grad()
        with masked.cached():
            loss = F.cross_entropy(masked.model(images), torch.arange(10) % 5)
            loss.backward()
        return loss

    progress = Progress(0, step, step / 3, 1, stage.name)
    method.train_mode(stage, masked)
    method.step(stage, masked, closure, optimizer, Progress(stage=stage.name))
    method.after_step(stage, masked, optimizer, progress)
    method.after_epoch(stage, masked, optimizer, progress, METRICS)


def test_hooks_draw_from_their_own_generator_only(pruner):
    masked = attach(network())
    tensors, arrays = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(run_through(pruner, masked))
    assert torch.equal(torch.get_rng_state(), tensors)
    assert np.array_equal(np.random.get_state()[1], arrays)


def test_the_same_generator_gives_the_same_masks(pruner):
    one, other = (begun(pruner)[0] for _ in range(2))
    torch.manual_seed(9)
    assert all(torch.equal(mask, other.masks[n]) for n, mask in one.masks.items())


def test_preparing_twice_is_harmless_and_draws_nothing(pruner):
    fresh, its_method = attach(network()), pruner.method(context(pruner))
    for stage in pruner.stages(0.1, sections()):
        generator = its_method.context.generator.get_state()
        for _ in range(2):
            its_method.prepare(stage, fresh)
            assert torch.equal(its_method.context.generator.get_state(), generator)
        names = list(fresh.model.state_dict())
        its_method.prepare(stage, fresh)
        assert list(fresh.model.state_dict()) == names
        its_method.begin(stage, fresh)
        before = copy.deepcopy(fresh.model.state_dict())
        its_method.prepare(stage, fresh)
        after = fresh.model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[n], tensor) for n, tensor in before.items())


def test_a_prepared_network_takes_over_what_another_has_become(pruner):
    """As on resume: prepare, then the states of network and method."""
    masked, method, stages = begun(pruner)
    fresh, its_method = attach(network()), pruner.method(context(pruner, seed=5))
    its_method.prepare(stages[-1], fresh)
    fresh.model.load_state_dict(masked.model.state_dict())
    its_method.load_state_dict(copy.deepcopy(method.state_dict()))
    its_method.context.generator.set_state(method.context.generator.get_state())
    for one, its in ((masked, method), (fresh, its_method)):
        optimizer = torch.optim.SGD(its.param_groups(stages[-1], one), lr=1.0)
        for step in range(2):
            train(its, stages[-1], one, optimizer, step)
    state, its_state = masked.model.state_dict(), fresh.model.state_dict()
    assert all(torch.equal(its_state[name], tensor) for name, tensor in state.items())
    assert str(method.state_dict()) == str(its_method.state_dict())


def test_each_network_gets_a_method_of_its_own(pruner):
    given = context(pruner)
    one, other = pruner.method(given), pruner.method(given)
    assert one is not other
    assert isinstance(one, Method)
    assert isinstance(one.context, Context)
    assert one.pruner is pruner


def test_stages_have_names_of_their_own_and_say_so_without_a_network(pruner):
    stages = pruner.stages(0.1, sections())
    names = [stage.name for stage in stages]
    assert names
    assert len(set(names)) == len(names)
    assert all(stage.start == 0 or stage.start < stage.options.epochs for stage in stages)
    assert all(isinstance(need, str) for need in pruner.needs())


def test_networks_are_named_by_label_or_pruner_and_density(name):
    assert pruners.create(name).network(0.01) == f"{name}-0.01"
    assert pruners.create(name, label="mine").network(0.1) == "mine-0.1"
    assert pruners.create(name).network(1.0) == f"{name}-1"


def test_it_is_documented_and_survives_its_own_document(pruner):
    assert type(pruner).__doc__
    assert pruner.source
    assert pruner.cost
    document = pruner.model_dump(mode="json", serialize_as_any=True)
    name = document.pop("name")
    assert pruners.create(name, **document) == pruner
