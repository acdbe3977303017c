"""Gradients of the bounds with respect to what a network computes with, and to scores."""

import pytest
import torch

from robustprune.adapters.bounds import METHODS, Bounds
from tests.masks import learning

from .tiny import images, labels, masked, network

TRAINING = ["ibp", "crown_ibp", "crown"]
"""The methods whose bounds have gradients."""


def margins(model, method, *, eps=0.1, x=None, y=None):
    x, y = images() if x is None else x, labels() if y is None else y
    return Bounds(model, x).margins(model, x, y, eps=eps, method=method)


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINING)
@pytest.mark.parametrize(
    ("name", "dtype", "step", "close"),
    [
        ("conv_norm", torch.float64, 1e-6, {"rel": 1e-4, "abs": 1e-7}),
        ("normalised", torch.float32, 1e-3, {"rel": 3e-2, "abs": 3e-3}),
    ],
)
def test_gradients_are_those_of_finite_differences(name, dtype, step, close, method):
    model, x, y = network(name).requires_grad_(True).to(dtype), images().to(dtype), labels()
    bounds, generator = Bounds(model, x), torch.Generator().manual_seed(0)
    weights = torch.rand(3, 2, generator=generator).to(dtype)

    def loss():
        return (weights * bounds.margins(model, x, y, eps=0.1, method=method)).sum()

    loss().backward()
    moved = 0
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=generator).to(dtype)
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            above = loss()
            parameter.sub_(direction, alpha=2 * step)
            expected = ((above - loss()) / (2 * step)).item()
            parameter.add_(direction, alpha=step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, **close)
        moved += abs(expected) > 0.01
    assert moved >= 5


@pytest.mark.parametrize("method", TRAINING)
@pytest.mark.parametrize("cached", [False, True])
def test_scores_get_the_straight_through_gradient(method, cached):
    whole = learning(network("conv_norm"), density=0.5)
    if cached:
        with whole.cached():
            margins(whole.model, method).sum().backward()
    else:
        margins(whole.model, method).sum().backward()

    plain = masked("conv_norm", density=0.5)
    plain.bake()
    plain.model.requires_grad_(True)
    margins(plain.model, method).sum().backward()
    for name, scores in whole.scores.items():
        expected = plain.model.get_parameter(name).grad * whole.weights[name] * scores.sign()
        torch.testing.assert_close(scores.grad, expected)
        assert (scores.grad[~whole.masks[name]] != 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_network_and_optimised_slopes_have_no_gradients(method):
    model = network("conv_norm").requires_grad_(method == "alpha_crown")
    assert not margins(model, method).requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_without_gradients_the_bounds_are_the_same(method):
    model = network("conv_norm")
    expected = margins(model, method)
    with torch.no_grad():
        found = margins(model, method)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad


def test_images_may_want_gradients_and_get_none():
    x = images().requires_grad_(True)
    margins(network("mlp"), "crown", x=x).sum().backward()
    assert x.grad is None
