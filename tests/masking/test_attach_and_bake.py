import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.masking.structures import Structure
from tests import masks
from tests.masking.nets import Factor, batch, network, pruned


def test_bake_leaves_a_plain_network():
    images, _ = batch()
    masked = pruned()
    model = masked.model.eval()
    before = model(images)
    found = masked.bake()
    assert torch.equal(model(images), before)
    assert type(model[0]) is nn.Conv2d
    assert type(model[4]) is nn.Linear
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert model.state_dict().keys() == network().state_dict().keys()
    assert set(found) == {"0.weight", "4.weight"}
    for name, mask in found.items():
        weight = model.get_parameter(name)
        assert weight.requires_grad
        assert not bool(weight[~mask].any())
        assert not bool(weight[~mask].signbit().any())
    fresh = network().eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images), before)


def test_a_baked_network_can_be_trained_and_masked_again():
    masked = pruned(0.5)
    masked.bake()
    masked.model(batch()[0]).sum().backward()
    assert masked.model[4].weight.grad is not None
    assert masks.pruned(masked.model, 0.25).kept == 18


def test_copies_of_masked_and_of_baked_networks_stand_alone():
    images, _ = batch()
    masked = pruned()
    model = masked.model.eval()
    twin = copy.deepcopy(masked)
    twin.set({name: ~mask for name, mask in twin.masks.items()})
    assert twin.turnover == 1
    assert masked.turnover == 0
    before = model(images)
    assert not torch.equal(twin.model(images), before)
    twin.bake()
    masked.bake()
    assert torch.equal(copy.deepcopy(model)(images), before)


def test_masking_twice_is_refused():
    model = network()
    attach(model)
    with pytest.raises(UsageError, match=r"layer '0'(.*)parametrized \(Mask\)(.*)bake"):
        attach(model)


def test_a_refused_network_is_left_as_it_was():
    model = network()
    attach(nn.Sequential(model[4]))
    with pytest.raises(UsageError, match=r"layer '4'(.*)parametrized"):
        attach(model)
    assert not parametrize.is_parametrized(model[0])
    other = network()
    with pytest.raises(UsageError, match="unknown structure 'wieght'"):
        attach(other, structure="wieght")
    assert not parametrize.is_parametrized(other[0])


def test_a_network_without_prunable_layers_is_refused():
    with pytest.raises(UsageError, match="BatchNorm2d has no Conv2d or Linear"):
        attach(nn.BatchNorm2d(3))


def test_a_layer_may_be_the_whole_network():
    layer = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    masked = attach(layer)
    assert list(masked.masks) == ["weight"]
    assert [report.name for report in masked.report()] == [""]
    masked.load({name: tensor + 1 for name, tensor in before.items()})
    assert torch.equal(masked.bake()["weight"], torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(layer.weight, before["weight"] + 1)


# -- layers that stay dense ------------------------------------------------------------------------


def deeper() -> nn.Sequential:
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(2)]
    return nn.Sequential(nn.Linear(2, 4), *blocks, nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), ["0", "1.0", "1.2", "2.0", "2.2", "3"]),
        (("3",), ["0", "1.0", "1.2", "2.0", "2.2"]),
        (("2.*", "0"), ["1.0", "1.2", "3"]),
        (("*.0",), ["0", "1.2", "2.2", "3"]),
        (("[12].2", "3"), ["0", "1.0", "2.0"]),
    ],
)
def test_layers_are_left_out_by_name_or_pattern(exclude, left):
    masked = attach(deeper(), exclude=exclude)
    assert [report.name for report in masked.report()] == left
    assert masked.prunable == sum(masked.model.get_submodule(name).weight.numel() for name in left)


@pytest.mark.parametrize(
    ("exclude", "words"),
    [
        (("4",), "no layer is called '4'"),
        (("1.1",), "no layer is called '1.1'"),  # a ReLU
        (("3", "2.1*"), r"no layer is called '2\.1\*'"),
        (("*",), "leaves no layer to prune"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_and_so_is_one_that_leaves_nothing(exclude, words):
    model = deeper()
    with pytest.raises(UsageError, match=words):
        attach(model, exclude=exclude)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_a_layer_that_cannot_be_masked_may_be_left_out():
    model = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 2)))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match="_WeightNorm"):
        attach(model)
    masked = attach(model, exclude=["1"])
    assert list(masked.masks) == ["0.weight"]
    masked.load({name: tensor + 1 for name, tensor in state.items()})
    assert torch.equal(masked.weights["0.weight"], state["0.weight"] + 1)
    masked.bake()
    assert model.state_dict().keys() == state.keys()


class Wide(Structure):
    """Touches layers of at least four outputs."""

    def stays_dense(self, layers, ends):
        return {name for name, weight in layers.items() if len(weight) < 4}


def test_layers_that_a_structure_cannot_cover_stay_dense_and_are_named():
    masked = attach(deeper(), structure=Wide())
    assert masked.dense == ("3",)
    assert [report.name for report in masked.report()] == ["0", "1.0", "1.2", "2.0", "2.2"]
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(UsageError, match=r"leaves every layer of Sequential dense: 0"):
        attach(model, structure=Wide())
    assert not parametrize.is_parametrized(model[0])


# -- what is in front of a mask --------------------------------------------------------------------


def test_a_module_in_front_of_the_mask_is_trained_seen_and_baked_in():
    images, _ = batch()
    masked = pruned()
    model = masked.model.eval()
    weights = {name: weight.clone() for name, weight in masked.weights.items()}
    masked.reparametrize(lambda name, weight: Factor(weight))
    for name, weight in weights.items():
        expected = torch.where(masked.masks[name], 2 * weight, 0.0)
        assert torch.equal(model.get_submodule(name[:1]).weight, expected)
        assert torch.equal(masked.unmasked()[name], 2 * weight)
    factors = [p for name, p in model.named_parameters() if name.endswith("factor")]
    assert {id(factor) for factor in factors} <= {id(p) for p in masked.weight_parameters()}
    model(images).sum().backward()
    assert all(bool(factor.grad.any()) for factor in factors)
    masked.unmasked()["4.weight"].sum().backward()  # with its graph
    before = model(images)
    masked.bake()
    assert torch.equal(model(images), before)
    assert model.state_dict().keys() == network().state_dict().keys()


def test_a_second_reparametrisation_changes_nothing():
    masked = pruned()
    masked.reparametrize(lambda name, weight: Factor(weight))
    before = dict(masked.model.named_parameters())
    masked.reparametrize(lambda name, weight: Factor(3 * weight))
    assert dict(masked.model.named_parameters()) == before


def test_layers_that_share_a_weight_share_what_is_in_front_of_its_mask():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    masked = masks.pruned(model, 0.5)
    masked.reparametrize(lambda name, weight: Factor(weight))
    images = torch.rand(2, 4)
    before = model(images)
    masked.bake()
    assert torch.equal(model(images), before), "each was multiplied once"
    assert first.weight is second.weight


# -- a dense network's weights ---------------------------------------------------------------------


def other_state() -> dict[str, torch.Tensor]:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model(torch.rand(8, 2, 2, 3))  # norms' statistics move
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("factors", [False, True])
def test_a_dense_network_s_state_is_taken_over_and_masks_and_scores_stay(factors):
    masked = pruned()
    masked.add_scores(masked.weights)
    if factors:
        masked.reparametrize(lambda name, weight: Factor(weight))
    found, scores = copy.deepcopy(masked.masks), copy.deepcopy(masked.scores)
    own = dict(masked.model.named_parameters())
    state = other_state()
    masked.load(state)
    assert all(torch.equal(masked.masks[name], mask) for name, mask in found.items())
    assert all(torch.equal(masked.scores[name], score) for name, score in scores.items())
    assert all(masked.model.get_parameter(name) is tensor for name, tensor in own.items())
    assert all(torch.equal(masked.weights[name], state[name]) for name in found)
    masked.bake()
    for name, tensor in masked.model.state_dict().items():
        mask = found.get(name)
        factor = 2 if factors and mask is not None else 1
        expected = tensor if mask is None else torch.where(mask, factor * state[name], 0.0)
        assert torch.equal(tensor, expected)
    statistics = masked.model.state_dict()["1.running_mean"]
    assert torch.equal(statistics, state["1.running_mean"])


def without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: without(s, "4.bias"), r"4\.bias"),
        (lambda s: s | {"5.weight": torch.ones(1)}, r"5\.weight"),
        (lambda s: s | {"4.weight": torch.ones(1, 12)}, r"4\.weight"),  # it would broadcast
        (lambda s: s | {"0.weight": torch.ones(4, 2, 3, 3)}, r"0\.weight"),
        (lambda s: pruned().model.state_dict(), "parametrizations"),
    ],
    ids=["one less", "one more", "a row", "other channels", "a masked one"],
)
def test_another_network_s_state_is_refused_and_nothing_changes(change, words):
    masked = pruned()
    before = copy.deepcopy(masked.model.state_dict())
    with pytest.raises(UsageError, match=rf"of another network: .*{words}"):
        masked.load(change(other_state()))
    assert all(torch.equal(before[n], t) for n, t in masked.model.state_dict().items())
