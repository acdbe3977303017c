"""Dearer bounds are tighter, and α-CROWN's slopes do move."""

from functools import cache

import pytest
import torch
from torch import nn

from robustprune.adapters.bounds import METHODS, Bounds

from .exact import Exact
from .tiny import NETWORKS, SHAPE, images, labels, network


@cache
def margins(name):
    """Each method's, over networks of one kind with different weights: ``(networks · n, 2)``."""
    found = {method: [] for method in METHODS}
    for seed in (2, 5):
        model, x, y = network(name, seed=seed), images(seed=seed), labels()
        graph = Bounds(model, x)
        for method, bounds in found.items():
            bound = graph.margins(model, x, y, eps=0.15, method=method, iterations=6)
            bounds.append(bound.detach())
    return {method: torch.cat(bounds) for method, bounds in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tighter", "looser"), [("alpha_crown", "crown"), ("crown", "crown_ibp"), ("crown_ibp", "ibp")]
)
def test_on_average_each_bound_beats_the_next(tighter, looser):
    gains = torch.tensor([(margins(n)[tighter] - margins(n)[looser]).mean() for n in NETWORKS])
    assert gains.mean() > 0.01
    assert gains.min() > -0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_optimised_slopes_are_never_worse(name):
    gain = margins(name)["alpha_crown"] - margins(name)["crown"]
    assert (gain >= 0).all()
    if name == "straight":
        assert (gain == 0).all()


def unstable(*, share, sizes=(10, 10), classes=3):
    """Biases such that a share of the first layer's neurons has 0 in the middle of its interval."""
    torch.manual_seed(0)
    first, second = nn.Linear(18, sizes[0]), nn.Linear(*sizes)
    layers = (nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(sizes[1], classes))
    count = round(share * sizes[0])
    with torch.no_grad():
        first.bias[:count] = -first.weight[:count] @ torch.full((18,), 0.5)
        first.bias[count:] = 9
    return nn.Sequential(*layers)


def grey(n=3):
    return 0.5 + 0.02 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.9, 1.0])
def test_optimised_slopes_gain_much_where_many_neurons_are_unstable(share):
    model, x, y, eps = unstable(share=share), grey(), labels(), 0.1
    before = model[1](x.flatten(1))
    reach = eps * model[1].weight.abs().sum(1)
    assert (before.abs() < reach).float().mean() == pytest.approx(share)
    true = Exact(model, SHAPE).margins(x, y, eps=eps)
    graph = Bounds(model, x)
    crown = graph.margins(model, x, y, eps=eps, method="crown").detach()
    found = graph.margins(model, x, y, eps=eps, method="alpha_crown")
    assert (found >= crown).all()
    assert (true >= found - 1e-5).all()
    assert (true - found).mean() < 0.8 * (true - crown).mean()


@pytest.mark.slow
def test_convolutions_with_every_neuron_unstable():
    torch.manual_seed(0)
    convs = (nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 3, 2), nn.ReLU())
    model, x, y, eps = nn.Sequential(*convs, nn.Flatten(), nn.Linear(3, 3)), grey(), labels(), 0.1
    with torch.no_grad():
        model[0].bias.copy_(-0.5 * model[0].weight.sum((1, 2, 3)))
        model[2].bias.zero_()
    assert (model[0](x).abs() < eps * model[0].weight.abs().sum((1, 2, 3)).view(3, 1, 1)).all()
    true = Exact(model, SHAPE).margins(x, y, eps=eps)
    graph = Bounds(model, x)
    crown, found = (
        graph.margins(model, x, y, eps=eps, method=method) for method in ("crown", "alpha_crown")
    )
    assert (true >= found - 1e-5).all()
    assert (found >= crown).all()
    assert (found > crown + 0.001).any()


def test_more_iterations_gain_more():
    model, x, y = unstable(share=1.0), grey(), labels()
    graph = Bounds(model, x)
    few, many = (
        graph.margins(model, x, y, eps=0.1, method="alpha_crown", iterations=n) for n in (1, 20)
    )
    assert many.mean() > few.mean()
