"""The fused bound on the cross-entropy, against every corner of the box and its own parts."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune.adapters.bounds import Bounds


def network(*sizes, classes=5):
    torch.manual_seed(3)
    layers = [nn.Flatten()]
    for before, after in itertools.pairwise((4, *sizes)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((4, *sizes)[-1], classes))


def data(n=4):
    return torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(n)


def worst_seen(model, images, labels, eps):
    """The largest cross-entropy over the box's corners and many of its points."""
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    inside = torch.rand(2000, 4, generator=torch.Generator().manual_seed(2))
    shares = torch.cat([corners, inside]).view(-1, 1, 1, 2, 2)
    points = low + shares * (high - low)
    logits = model(points.flatten(0, 1))
    each = F.cross_entropy(logits, labels.repeat(len(shares)), reduction="none")
    return each.view(len(shares), -1).amax(0)


@pytest.mark.parametrize("sizes", [(), (6,), (8, 8)])
@pytest.mark.parametrize("eps", [0.01, 0.2, 1.5])
def test_no_point_of_the_box_has_a_larger_loss(sizes, eps):
    model, (images, labels) = network(*sizes), data()
    bound = Bounds(model, images).cross_entropy(model, images, labels, eps=eps)
    assert (bound >= worst_seen(model, images, labels, eps) - 1e-5).all()


def test_it_closes_on_the_loss_as_the_box_closes():
    model, (images, labels) = network(8, 8), data()
    clean = F.cross_entropy(model(images), labels, reduction="none")
    bounds = Bounds(model, images)
    gaps = [
        (bounds.cross_entropy(model, images, labels, eps=eps) - clean).max().item()
        for eps in (1e-2, 1e-3, 1e-4)
    ]
    assert gaps[2] < 1e-3 < gaps[0]
    assert gaps == sorted(gaps, reverse=True)


def test_it_beats_the_margins_in_narrow_boxes_and_loses_in_wide_ones():
    model, (images, labels) = network(8, 8), data()
    bounds = Bounds(model, images)

    def losses(eps):
        fused = bounds.cross_entropy(model, images, labels, eps=eps)
        both = (
            torch.log1p(torch.exp(-margins).sum(1)).mean()
            for margins in (
                bounds.margins(model, images, labels, eps=eps, method=method)
                for method in ("crown_ibp", "ibp")
            )
        )
        return fused.mean(), *both

    fused, linear, interval = losses(0.05)
    assert fused < linear < interval
    with torch.no_grad():
        model[-1].weight.mul_(20)
    fused, linear, interval = losses(0.3)
    assert linear < fused < interval


def test_wide_intervals_do_not_overflow():
    model, (images, labels) = network(8), data()
    with torch.no_grad():
        model[-1].weight.mul_(1e4)
    bound = Bounds(model, images).cross_entropy(model, images, labels, eps=0.5)
    assert bound.isfinite().all()
    bound.mean().backward()
    assert model[1].weight.grad.isfinite().all()
