import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from robustprune.errors import UsageError
from robustprune.masking import attach
from tests.masking.nets import batch, frozen, network


def test_bake_leaves_a_plain_network():
    model = network()
    images, _ = batch()
    whole = attach(frozen(model), density=0.25)
    model.eval()
    before = model(images)
    masks = whole.bake()
    assert torch.equal(model(images), before)
    assert type(model[0]) is nn.Conv2d
    assert type(model[4]) is nn.Linear
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert model.state_dict().keys() == network().state_dict().keys()
    assert set(masks) == {"0.weight", "4.weight"}
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert weight.requires_grad
        assert not bool(weight[~mask].any())
        assert not bool(weight[~mask].signbit().any())
    fresh = network().eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images), before)


def test_a_baked_network_can_be_trained_and_masked_again():
    model = network()
    attach(model, density=0.5).bake()
    model(batch()[0]).sum().backward()
    assert model[4].weight.grad is not None
    assert attach(model, density=0.25).kept == 18


def test_copies_of_masked_and_of_baked_networks_stand_alone():
    model = network().eval()
    images, _ = batch()
    whole = attach(model, density=0.25)
    twin = copy.deepcopy(whole)
    with torch.no_grad():
        twin.masks["4"].scores.reciprocal_()
    twin.select()
    assert twin.turnover > 0
    assert whole.turnover == 0
    before = model(images)
    assert not torch.equal(twin.model(images), before)
    twin.bake()
    whole.bake()
    assert torch.equal(copy.deepcopy(model)(images), before)


@pytest.mark.parametrize("density", [0, -0.1, 1.5, float("nan")])
def test_densities_out_of_range_are_refused(density):
    model = network()
    with pytest.raises(UsageError, match=r"\(0, 1\]"):
        attach(model, density=density)
    assert not parametrize.is_parametrized(model[0])


def test_masking_twice_is_refused():
    model = network()
    attach(model, density=0.5)
    with pytest.raises(UsageError, match=r"layer '0'(.*)parametrized \(ScoreMask\)(.*)bake"):
        attach(model, density=0.5)


def test_a_refused_network_is_left_as_it_was():
    model = network()
    attach(nn.Sequential(model[4]), density=0.5)
    with pytest.raises(UsageError, match=r"layer '4'(.*)parametrized"):
        attach(model, density=0.5)
    assert not parametrize.is_parametrized(model[0])
    other = network()
    with pytest.raises(UsageError, match="unknown allocation 'unform'"):
        attach(other, density=0.5, allocation="unform")
    assert not parametrize.is_parametrized(other[0])


def test_a_network_without_prunable_layers_is_refused():
    with pytest.raises(UsageError, match="BatchNorm2d has no Conv2d or Linear"):
        attach(nn.BatchNorm2d(3), density=0.5)
