from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from robustprune.inference.graph import graph_of, known_operations, unknown_calls
from tests.inference.networks import Call, far, images, prepared

Function = Callable[[Any, Tensor], Tensor]
SHAPE = (4, 8, 12)
CONV = {"conv": nn.Conv2d(4, 6, 3, padding=1), "fc": nn.Linear(6, 5)}


def kinds(network: nn.Module, shape: tuple[int, ...] = SHAPE) -> tuple[list[str], list[str]]:
    """The operations that are known, and the calls that are not, of a network that agrees."""
    network, x = prepared(network), images(5, *shape) - 0.5
    graph = graph_of(network, x[:1])
    with torch.no_grad():
        for count in (5, 1):
            assert far(graph(x[:count].clone()), network(x[:count].clone())) < 1e-5
    return [known.operation.kind for _, known in known_operations(graph)], unknown_calls(graph)


def norm(**options: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4, **options)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), bias=False), ["convolution"]),
        (nn.Conv2d(4, 6, 3, dilation=2, groups=2), ["convolution"]),
        (nn.Conv2d(4, 6, 3, padding="same", dilation=2), ["convolution"]),
        (nn.Conv2d(4, 6, 3, padding="valid"), ["convolution"]),
        (norm(), ["affine"]),
        (norm(affine=False), ["affine"]),
        (nn.ReLU(), ["relu"]),
        (nn.MaxPool2d(3, 2, 1), ["max_pool"]),
        (nn.MaxPool2d(2, ceil_mode=True), ["max_pool"]),  # nothing to be rounded here
        (nn.AvgPool2d((2, 3)), ["average_pool"]),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), ["average_pool"]),
        (nn.AdaptiveAvgPool2d((2, None)), ["average_pool"]),
        (nn.AdaptiveAvgPool2d(1), ["average_pool"]),
        (nn.AdaptiveMaxPool2d((4, 3)), ["max_pool"]),
        (nn.Flatten(), ["flatten"]),
        (nn.Sequential(nn.Flatten(), nn.Flatten(), nn.Linear(384, 3)), ["flatten", "linear"]),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(384)), ["flatten", "affine"]),
        (nn.Sequential(nn.Dropout(), nn.ReLU(), nn.Identity(), nn.Dropout2d()), ["relu"]),
    ],
    ids=repr,
)
def test_layers_that_are_known(layer: nn.Module, expected: list[str]) -> None:
    assert kinds(layer) == (expected, [])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, 2, padding="same"),
        nn.ConvTranspose2d(4, 6, 3),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, dilation=2),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d((3, 5)),
        nn.Flatten(2),
        nn.Linear(12, 3),
        norm(track_running_stats=False),
        nn.InstanceNorm2d(4),
        nn.LeakyReLU(),
        nn.ReLU6(),
        parametrizations.weight_norm(nn.Conv2d(4, 2, 1)),  # hooks or parametrizations
    ],
    ids=repr,
)
def test_layers_that_stay_torch_s(layer: nn.Module) -> None:
    known, unknown = kinds(nn.Sequential(nn.ReLU(), layer))
    if "ParametrizedConv2d" in repr(layer):  # a plain copy has it baked
        assert known == ["relu", "convolution"]
    else:
        assert known == ["relu"]
        assert unknown


def test_weights_that_torch_prunes_before_each_call_are_those_of_the_call() -> None:
    conv = prune.random_unstructured(nn.Conv2d(4, 6, 3), "weight", 0.5)
    conv(torch.rand(1, *SHAPE))
    assert kinds(nn.Sequential(conv))[0] == ["convolution"]


def test_a_layer_with_a_hook_stays_torch_s() -> None:
    conv = nn.Conv2d(4, 6, 3)
    conv.register_forward_hook(lambda module, args, output: output + 1)
    assert kinds(nn.Sequential(conv, nn.ReLU())) == (["relu"], ["0"])


FORMS: dict[str, tuple[Function, list[str]]] = {
    "F.relu": (lambda m, x: F.relu(x), ["relu"]),
    "torch.relu": (lambda m, x: torch.relu(x), ["relu"]),
    "method relu": (lambda m, x: x.relu(), ["relu"]),
    "plus": (lambda m, x: m.conv(x) + m.conv(x).relu(), ["convolution"] * 2 + ["relu", "add"]),
    "torch.add": (
        lambda m, x: torch.add(m.conv(x), F.relu(m.conv(x))),
        ["convolution"] * 2 + ["relu", "add"],
    ),
    "flatten": (lambda m, x: torch.flatten(x, 1), ["flatten"]),
    "method flatten": (lambda m, x: x.flatten(start_dim=1), ["flatten"]),
    "view": (lambda m, x: x.view(x.size(0), -1), ["flatten"]),
    "view of a size": (lambda m, x: x.view(-1, 384), ["flatten"]),
    "reshape": (lambda m, x: x.reshape(x.shape[0], 384), ["flatten"]),
    "max_pool2d": (lambda m, x: F.max_pool2d(x, 2), ["max_pool"]),
    "avg_pool2d": (lambda m, x: F.avg_pool2d(x, 2, stride=1), ["average_pool"]),
    "adaptive": (lambda m, x: F.adaptive_avg_pool2d(x, (1, 1)), ["average_pool"]),
    "mean": (lambda m, x: m.fc(m.conv(x).mean((2, 3))), ["convolution", "average_pool"]),
    "mean, kept": (lambda m, x: x.mean([-1, -2], keepdim=True), ["average_pool"]),
    "normalisation": (lambda m, x: (x - m.mean) / m.std, ["affine"]),
    "numbers": (lambda m, x: 1 - 2 * x, ["affine"]),
    "conv2d": (lambda m, x: F.conv2d(x, m.conv.weight, padding=1), ["convolution"]),
    "computed weight": (lambda m, x: F.conv2d(x, m.conv.weight * 2), ["convolution"]),
    "batch_norm": (
        lambda m, x: F.batch_norm(x, m.bn.running_mean, m.bn.running_var, m.bn.weight, m.bn.bias),
        ["affine"],
    ),
    "dropout": (lambda m, x: F.dropout(F.relu(x), 0.5, m.training), ["relu"]),
    "contiguous": (lambda m, x: x.contiguous().relu(), ["relu"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_functions_and_methods(form: str) -> None:
    function, expected = FORMS[form]
    mean, std = torch.rand(1, 4, 1, 1), torch.rand(4, 1, 1) + 1
    network = Call(function, **CONV, bn=norm(), mean=nn.Buffer(mean), std=nn.Buffer(std))
    found, unknown = kinds(network)
    assert found[: len(expected)] == expected
    assert unknown == []


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.relu(x).mean(1),
        lambda m, x: F.relu(x).mean(),
        lambda m, x: F.relu(x) + F.relu(x).mean((2, 3), keepdim=True),  # other shapes
        lambda m, x: F.relu(x) + m.pixels,  # a number for each pixel
        lambda m, x: torch.add(F.relu(x), F.relu(-x), alpha=2),
        lambda m, x: F.relu(x) * m.conv(x).sigmoid().mean(),
        lambda m, x: F.relu(x).view(-1, 8, 48),
        lambda m, x: F.relu(x).permute(0, 2, 3, 1).flatten(1),
        lambda m, x: F.conv2d(F.relu(x), torch.ones(4, 4, 1, 1) * F.relu(x).mean()),
        lambda m, x: F.relu(x).double().relu(),
    ],
)
def test_what_is_like_an_operation_but_is_not_stays_torch_s(function: Function) -> None:
    _, unknown = kinds(Call(function, **CONV, pixels=nn.Buffer(torch.rand(8, 12))))
    assert unknown
