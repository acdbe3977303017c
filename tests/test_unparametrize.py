import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from robustprune.masking import MaskedModel
from robustprune.unparametrize import drop_parametrizations, plain_copy
from tests.masks import pruned


def network() -> nn.Sequential:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout2d(0.9))
    return nn.Sequential(nn.Conv2d(1, 2, 2), inner, nn.Flatten(), nn.Dropout(0.9), nn.Linear(8, 3))


def masked() -> MaskedModel:
    return pruned(network(), 0.5)


def images() -> torch.Tensor:
    return torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))


def test_a_plain_copy_computes_what_the_network_computes_in_eval_mode() -> None:
    model = masked().model
    twin = plain_copy(model)
    assert torch.equal(twin(images()), model.eval()(images()))
    assert not twin.training
    assert not any(module.training for module in twin.modules())
    assert not any(parametrize.is_parametrized(module) for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert sorted(twin.state_dict()) == sorted(network().state_dict())
    kinds = [type(layer) for layer in twin]
    assert kinds == [nn.Conv2d, nn.Sequential, nn.Flatten, nn.Identity, nn.Linear]
    assert type(twin[1][2]) is nn.Identity


def test_the_original_is_untouched() -> None:
    whole = masked()
    model = whole.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    wanting = [parameter.requires_grad for parameter in model.parameters()]
    twin = plain_copy(model)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [type(module) for module in model.modules()] == kinds
    assert [parameter.requires_grad for parameter in model.parameters()] == wanting
    assert all(module.training for module in model.modules())
    with whole.cached():
        model(images()).sum().backward()
    assert all(weight.grad is not None for weight in whole.weights.values())


def test_copies_are_independent() -> None:
    whole = masked()
    first = plain_copy(whole.model)
    expected = first(images())
    second, deep = plain_copy(whole.model), copy.deepcopy(whole.model)
    with torch.no_grad():
        second[0].weight.zero_()
        whole.model[0].parametrizations.weight.original.zero_()
    assert torch.equal(first(images()), expected)
    assert not torch.equal(second(images()), expected)
    assert torch.equal(plain_copy(deep)(images()), expected)
    whole.bake()
    assert torch.equal(first(images()), expected)
    assert torch.equal(deep.eval()(images()), expected)


def test_dropped_parametrizations_leave_a_plain_layer_of_its_own_class() -> None:
    whole = masked()
    layer = whole.model[0]
    shown = layer.weight.detach().clone()
    drop_parametrizations(layer)
    assert type(layer) is nn.Conv2d
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer.weight, shown)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    assert type(whole.model[4]) is not nn.Linear
    assert (shown == 0).sum() == 4  # the mask's


def test_all_of_a_layer_s_parametrizations_are_dropped_and_other_layers_left_alone() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    parametrize.register_parametrization(layer, "bias", nn.Softplus())
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    drop_parametrizations(layer)
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.bias, bias)
    plain = nn.Linear(3, 2)
    kept = plain.weight
    drop_parametrizations(plain)
    assert plain.weight is kept


def test_a_cache_that_is_open_does_not_matter() -> None:
    whole = masked()
    expected = whole.model.eval()(images())
    with whole.cached():
        twin = plain_copy(whole.model)
        assert torch.equal(whole.model(images()), expected)
    assert torch.equal(twin(images()), expected)
    assert torch.equal(whole.model(images()), expected)


def test_channels_last_becomes_contiguous() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2))
    model = pruned(layers.to(memory_format=torch.channels_last), 0.5).model
    assert not model[0].weight.is_contiguous()
    twin = plain_copy(model)
    assert twin[0].weight.is_contiguous()
    assert torch.equal(twin[0].weight, model[0].weight)
    assert not model[0].weight.is_contiguous()
