from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import robustprune as rp
from robustprune import kernels
from robustprune.errors import UsageError
from robustprune.inference import SparseNetwork, sparse, sparse_with
from robustprune.inference.graph import graph_of, layers_of
from robustprune.inference.segment import Segment
from tests.inference.networks import created, far, gradients_far, images, prepared, residual
from tests.masks import pruned

pytestmark = pytest.mark.skipif(bool(kernels.available()), reason=str(kernels.available()))


def all_sparse(network: nn.Module, x: torch.Tensor, few: int = 4) -> dict[str, Any]:
    """Choices by which the kernels compute all that they know, whether that is faster or not."""
    layers = {name: {"sparse": True} for name in layers_of(graph_of(network, x))}
    return {"network": "sparse", "few": few, "layers": layers}


def agree(network: nn.Module, x: torch.Tensor, counts: tuple[int, ...] = (1, 3, 18)) -> nn.Module:
    """Every layer that is known, made sparse, gives what torch gives."""
    found = sparse(network, x, choices=all_sparse(network, x))
    for count in counts:
        batch = images(count, *x.shape[1:])
        with torch.no_grad():
            assert far(found(batch), network(batch)) < 1e-5
    assert gradients_far(found, network, batch) < 1e-4
    return found


def segments(network: nn.Module) -> list[Segment]:
    return [part for part in network.modules() if isinstance(part, Segment)]


@pytest.mark.slow
@pytest.mark.parametrize("middle", [(), (nn.Conv2d(16, 16, 1), nn.GELU())])
def test_a_residual_network(middle: tuple[nn.Module, ...]) -> None:
    network = residual()
    for place, layer in enumerate(middle, 3):
        network.insert(place + 1, layer)
    found = agree(prepared(network), images(2, 3, 8, 8))
    assert len(segments(found)) == 1 + len(middle) // 2
    assert found(torch.rand(0, 3, 8, 8)).shape == (0, 5)


def test_a_part_that_ends_with_flatten() -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Sigmoid(), nn.Linear(144, 5))
    agree(prepared(nn.Sequential(*layers)), images(2, 3, 8, 8))


def test_a_network_of_linear_layers() -> None:
    network = prepared(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)))
    agree(network, images(2, 20))


@pytest.mark.slow
def test_a_masked_network_is_left_as_it_is() -> None:
    model = rp.create_model("cnn_small").train()
    masked, x = pruned(model, 0.05), images(4, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rp.sparse(model, x)
    assert masked.kept > 0
    assert model.training
    assert not found.training
    model.eval()
    assert far(found(x), model(x)) < 1e-5
    assert json.loads(json.dumps(found.choices)) == found.choices
    assert not list(found.parameters()) or not next(found.parameters()).requires_grad
    with torch.no_grad():
        again = rp.sparse(model, x, choices=found.choices)
        assert torch.equal(found(x), again(x))
        next(model.parameters()).add_(1)  # the copy is of the network as it was
        assert torch.equal(found(x), again(x))


def test_a_sparse_network_stays_in_eval_mode_and_may_be_copied() -> None:
    network = prepared(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.ReLU()))
    x = images(2, 3, 8, 8)
    found = sparse(network, x, choices=all_sparse(network, x))
    assert isinstance(found, SparseNetwork)
    twin = copy.deepcopy(found).train()
    assert not any(module.training for module in twin.modules())
    assert torch.equal(twin(x), found(x))
    assert twin.choices == found.choices


def test_new_weights_and_statistics_are_taken_over() -> None:
    layers = (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 5, 1))
    network, x = prepared(nn.Sequential(*layers)), images(2, 3, 8, 8)
    choices = all_sparse(network, x)
    choices["layers"]["3"]["sparse"] = False
    found: Any = sparse_with(
        kernels.Program, network, x, threads=1, choices=choices, tell=pytest.fail
    )
    before = found(x)
    with torch.no_grad():
        for tensor in (*network.parameters(), network[1].running_mean, network[1].running_var):
            tensor.mul_(1.5)
    found.refresh()
    assert far(found(x), network(x)) < 1e-5
    assert far(found(x), before) > 0.1


def test_without_kernels_the_network_stays_dense_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "available", lambda: "llvmlite is not installed")
    network, x = prepared(residual()), images(2, 3, 8, 8)
    with pytest.warns(UserWarning, match=r"stays dense, .* llvmlite is not installed") as caught:
        found = sparse(network, x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert found.choices == {"network": "dense", "reason": "llvmlite is not installed"}
    assert torch.equal(found(x), network(x))
    lines: list[str] = []
    sparse(network, x, choices=all_sparse(network, x), tell=lines.append)
    assert len(lines) == 1


@pytest.mark.slow
def test_without_llvmlite_all_is_dense_and_nothing_else_is_missing() -> None:
    code = """
import sys, warnings
sys.modules["llvmlite"] = None
import torch, robustprune as rp
from robustprune.artifacts import backends
from robustprune.inference.training import SparseTraining
from robustprune.masking import attach
assert "sparse" in backends.names()
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
images = torch.rand(2, 3, 2, 2)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = rp.sparse(network, images)
    assert len(caught) == 1 and "llvmlite is not installed" in str(caught[0].message)
    assert torch.equal(found(images), network(images))
    through = SparseTraining(network, attach(network), images)
    assert torch.equal(through(images), network(images))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_network_that_cannot_be_followed_stays_dense() -> None:
    class Moody(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if float(x.detach().sum()) > 0 else x

    found = sparse(Moody(), images(2, 3, 8, 8))
    assert found.choices["network"] == "dense"
    assert found.choices["reason"]
    assert torch.equal(found(torch.ones(1, 3, 8, 8)), torch.full((1, 3, 8, 8), 2.0))


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (residual(), torch.rand(0, 3, 8, 8), "an example of its images; got none"),
        (residual(), torch.rand(2, 3, 8, 8).double(), r"'images' is torch\.float64"),
        (residual().double(), torch.rand(2, 3, 8, 8), r"'0\.weight' is torch\.float64"),
        (residual(), torch.empty(2, 3, 8, 8, device="meta"), "'images' is on meta"),
    ],
)
def test_what_the_kernels_do_not_compute_with_is_refused(
    network: nn.Module, x: torch.Tensor, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sparse(network, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_large", "vgg16_bn_cifar", "resnet18_cifar", "wrn_28_4"])
def test_a_network_of_ours(name: str) -> None:
    found = agree(created(name), images(2, 3, 32, 32), (1, 18))
    assert len(segments(found)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "known"), [("resnet50", 54), ("mobilenetv3_small_100", 50)])
def test_a_network_of_timm_s(name: str, known: int) -> None:
    found = agree(created(name, 0.3), images(2, 3, 64, 64), (1, 18))
    layers = [part.layer for one in segments(found) for part in one.parts if part.is_layer()]
    assert len(layers) >= known


@pytest.mark.slow
def test_a_transformer_in_which_little_is_known() -> None:
    model = rp.create_model("vit_tiny_patch16_224", num_classes=10, image_size=32, patch_size=4)
    agree(prepared(model), images(2, 3, 32, 32), (1, 5))
