from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprune.errors import UsageError
from robustprune.inference import operations_of
from robustprune.inference.graph import (
    UntraceableError,
    graph_of,
    known_operations,
    layers_of,
    unknown_calls,
)
from tests.inference.networks import Call, created, far, images, prepared, residual
from tests.kernels.reference import ReferenceProgram


def kinds(graph: Any) -> list[str]:
    return [known.operation.kind for _, known in known_operations(graph)]


def test_a_norm_is_folded_into_the_layer_before_it() -> None:
    conv, norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=1.0)
    with torch.no_grad():
        conv.weight[:], conv.bias[:] = torch.tensor([4.0, 0.0]).view(2, 1, 1, 1), torch.ones(2)
        norm.running_mean[:], norm.running_var[:] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 8])
        norm.weight[:], norm.bias[:] = torch.tensor([1.0, 6.0]), torch.tensor([0.5, 0])
    (operation,) = operations_of(nn.Sequential(conv, norm).eval(), torch.rand(1, 1, 3, 3))
    # scale 1 / sqrt(3 + 1) and 6 / sqrt(8 + 1); shift 0.5 + (1 - 1) / 2 and 0 + (1 - 2) * 2
    assert operation.arrays["weight"].ravel().tolist() == [2.0, 0.0]
    assert operation.arrays["bias"].tolist() == [0.5, -2.0]


def test_maps_that_follow_each_other_are_one() -> None:
    network = Call(lambda m, x: (x - 0.5) / 0.25 * m.gain, gain=nn.Buffer(torch.rand(3, 1, 1)))
    (operation,) = operations_of(network.eval(), torch.rand(1, 3, 4, 4))
    gain = network.gain.numpy().ravel()
    assert np.allclose(operation.arrays["scale"], 4 * gain)
    assert np.allclose(operation.arrays["shift"], -2 * gain)


def test_a_value_that_is_read_twice_keeps_its_norm_apart() -> None:
    network = Call(lambda m, x: m.bn(y := m.conv(x)) + y, conv=nn.Conv2d(3, 4, 1))
    network.bn = nn.BatchNorm2d(4)
    network, x = prepared(network), images(2, 3, 4, 4)
    graph = graph_of(network, x)
    assert kinds(graph) == ["convolution", "affine", "add"]
    assert far(graph(x), network(x)) < 1e-6


def test_residual_sums_with_relus_in_place() -> None:
    network, x = prepared(residual()), images(3, 3, 8, 8)
    operations = operations_of(network, x)
    assert [one.kind for one in operations].count("add") == 2
    assert all(one.kind != "affine" for one in operations)
    found = torch.from_numpy(ReferenceProgram(operations, (3, 8, 8))(x.numpy()))
    assert far(found, network(x)) < 1e-6


ALIASES = {
    "read later": lambda m, x: F.relu(y := m.conv(x), inplace=True) + y,
    "result unused": lambda m, x: (y := m.conv(x), y.relu_())[0] * 2.0,
    "read before": lambda m, x: (y := m.conv(x)).mean((2, 3), keepdim=True) + F.relu_(y),
    "a view": lambda m, x: (y := m.conv(x), y.flatten(1).relu_())[0].sigmoid(),
    "added": lambda m, x: (y := m.conv(x), y.add_(1.0))[0] + y,
    "operator": lambda m, x: added(m.conv(x)),
}


def added(y: Tensor) -> Tensor:
    kept = y
    y += 1.0
    return F.relu(y) + kept


@pytest.mark.parametrize("name", ALIASES)
def test_writing_over_a_tensor_that_something_else_reads_is_as_in_torch(name: str) -> None:
    network, x = prepared(Call(ALIASES[name], conv=nn.Conv2d(3, 4, 1)), 1.0), images(2, 3, 4, 4)
    with torch.no_grad():
        assert far(graph_of(network, x)(x.clone()), network(x.clone())) < 1e-6


class Strict(nn.Module):
    """Tracing fails in it; exporting does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 8:
            raise ValueError("the size of images is 8")
        y = F.max_pool2d(F.relu(self.bn(self.conv(x)), inplace=True), 2)
        return self.fc(y.view(x.size(0), -1))


class Lively(nn.Module):
    """Neither tracing nor exporting can follow it, for its path depends on the images."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if float(x.detach().mean()) > 2 else x * 3


@pytest.mark.slow
def test_what_cannot_be_traced_is_exported() -> None:
    network, x = prepared(nn.Sequential(Strict(), nn.Linear(5, 2))), images(3, 3, 8, 8)
    graph = graph_of(network, x)
    assert layers_of(graph) == ["0.conv", "0.fc", "1"]
    assert unknown_calls(graph) == []
    for count in (3, 1, 17):
        assert far(graph(images(count, 3, 8, 8)), network(images(count, 3, 8, 8))) < 1e-6


def test_a_module_that_cannot_be_traced_stays_torch_s_within_the_graph() -> None:
    conv = nn.Conv2d(3, 4, 1)
    network, x = prepared(nn.Sequential(conv, nn.ReLU(), Lively(), nn.ReLU())), images(3, 3, 8, 8)
    graph = graph_of(network, x)
    assert kinds(graph) == ["convolution", "relu", "relu"]
    assert unknown_calls(graph) == ["2"]
    assert far(graph(x), network(x)) < 1e-6


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (m.conv(x), x),
        lambda m, x: m.conv(x) + torch.rand(1),  # of each call another
    ],
)
def test_a_network_without_such_a_graph_is_refused(function: Any) -> None:
    network = prepared(Call(function, conv=nn.Conv2d(3, 4, 1)))
    with pytest.raises(UntraceableError):
        graph_of(network, torch.rand(2, 3, 4, 4))


def test_options_of_forward_have_their_defaults() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, twice: bool = False, more: Tensor | None = None) -> Tensor:
            return F.relu(x) if more is None and not twice else x * 2

    assert kinds(graph_of(Optional().eval(), torch.rand(1, 3, 4, 4))) == ["relu"]


@pytest.mark.parametrize("name", ["cnn_small", "cnn_small_bn"])
def test_a_small_network_of_ours_is_known_whole(name: str) -> None:
    network, x = created(name), images(4, 3, 32, 32)
    operations = operations_of(network, x)
    found = ReferenceProgram(operations, (3, 32, 32))(x.numpy())
    assert far(torch.from_numpy(found), network(x)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("vgg16_bn_cifar", 32), ("resnet18_cifar", 32), ("wrn_28_4", 32)),
        *(("resnet50", 64), ("resnext50_32x4d", 64), ("repvgg_a0", 64)),
    ],
)
def test_a_network_is_known_whole(name: str, size: int) -> None:
    network, x = created(name), images(3, 3, size, size)
    operations = operations_of(network, x)
    found = ReferenceProgram(operations, (3, size, size))(x.numpy())
    assert far(torch.from_numpy(found), network(x)) < 1e-5


def test_operations_of_a_network_that_is_not_known_whole() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.Conv2d(4, 4, 1), nn.Sigmoid()).eval()
    with pytest.raises(UsageError, match=r"do not know 1, 3 of this network"):
        operations_of(network, torch.rand(1, 3, 4, 4))
