"""The yardstick of the other tests, measured by search."""

import pytest
import torch

from .exact import Exact
from .tiny import NETWORKS, SHAPE, clean_margins, images, labels, masked, network

EPS = 0.3


def found_by_search(model, x, y, eps, *, starts=120, steps=40):
    """The smallest margins that corners, random points and descent from them come to."""
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(starts, *x.shape, generator=generator, dtype=x.dtype)
    shares[: starts // 2] = shares[: starts // 2].round()
    points, best = low + shares * (high - low), None
    for step in range(steps):
        points.requires_grad_(True)
        logits = model(points.flatten(0, 1)).view(starts, len(x), -1)
        others = torch.arange(logits.shape[2]) != y[:, None]
        margins = logits.gather(2, y.expand(starts, -1)[..., None]) - logits
        margins = margins[:, others].view(starts, len(x), -1)
        least = margins.detach().amin(0)
        best = least if best is None else torch.minimum(best, least)
        # a third of the starts for each class that could win
        chosen = margins[torch.arange(starts), :, torch.arange(starts) % margins.shape[2]]
        (slope,) = torch.autograd.grad(chosen.sum(), points)
        length = eps * (1 - step / steps)
        points = (points - length * slope.sign()).detach().clamp(low, high)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_no_search_goes_below_it_and_a_good_one_comes_to_it(name):
    model, x, y = network(name).double(), images().double(), labels()
    exact = Exact(model, SHAPE).margins(x, y, eps=EPS)
    found = found_by_search(model, x, y, EPS)
    drop = clean_margins(model, x, y) - exact
    assert (found >= exact - 1e-9).all()
    assert (found - exact).max() < 0.1 * drop.max()
    assert drop.amin() >= 0
    assert drop.mean() > 0.02  # or bounds on it would say nothing


@pytest.mark.slow
def test_it_sees_the_masked_weights():
    x, y, whole = images(), labels(), masked("mlp")
    before = Exact(whole.model, SHAPE).margins(x, y, eps=EPS)
    whole.bake()
    assert torch.equal(Exact(whole.model, SHAPE).margins(x, y, eps=EPS), before)
    assert not torch.allclose(Exact(network("mlp"), SHAPE).margins(x, y, eps=EPS), before)
