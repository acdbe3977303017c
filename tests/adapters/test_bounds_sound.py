"""A certificate is a claim: no bound may exceed the exact minimum of its margin."""

from contextlib import nullcontext
from functools import cache

import pytest
import torch
from torch import nn

from robustprune.adapters.bounds import METHODS, Bounds

from .exact import Exact
from .tiny import NETWORKS, SHAPE, clean_margins, images, labels, masked, network

LINEAR = [method for method in METHODS if method != "ibp"]
"""Those that go through affine layers without loss."""


@cache
def exact(name, of_masked, eps, classes=3, n=3):
    whole = masked(name, classes=classes) if of_masked else None
    model = whole.model if whole else network(name, classes=classes)
    return Exact(model, SHAPE).margins(images(n), labels(n, classes), eps=eps)


def excess(found, true, model, x):
    """How far a bound is above what it bounds, at most, as a share of the logits' scale."""
    with torch.no_grad():
        scale = model(x).abs().max()
    return ((found.detach() - true).max() / scale).item()


def bounds_of(model, x, y, *, eps, methods=METHODS):
    graph = Bounds(model, x)
    return {m: graph.margins(model, x, y, eps=eps, method=m, iterations=6) for m in methods}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "dense") for name in NETWORKS),
        *((name, "masked") for name in ("conv_norm", "residual", "normalised")),
        ("conv_norm", "baked"),
    ],
)
def test_no_bound_is_above_the_exact_margin_of_any_class(name, kind):
    whole = None if kind == "dense" else masked(name)
    model = whole.model if whole else network(name)
    if kind == "baked":
        whole.bake()
    x, y = images(), labels()
    for eps in (0.05, 0.3):
        true = exact(name, kind != "dense", eps)
        with whole.cached() if kind == "masked" else nullcontext():
            methods = ("ibp", "crown") if kind == "baked" else METHODS
            found = bounds_of(model, x, y, eps=eps, methods=methods)
        for method, bound in found.items():
            assert bound.shape == true.shape
            assert excess(bound, true, model, x) <= 1e-5, (method, eps)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 12])
def test_any_number_of_classes(classes):
    model, x, y = network("conv_norm", classes=classes), images(), labels(3, classes)
    true = exact("conv_norm", False, 0.1, classes)
    for method, bound in bounds_of(model, x, y, eps=0.1).items():
        assert bound.shape == (3, classes - 1)
        assert excess(bound, true, model, x) <= 1e-5, method
        loss = (true - bound).mean() / (clean_margins(model, x, y) - true).mean()
        assert loss < (2 if method == "ibp" else 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_are_not_vacuous(name):
    model, x, y = network(name), images(), labels()
    true = exact(name, False, 0.05)
    drop = (clean_margins(model, x, y) - true).mean()
    found = bounds_of(model, x, y, eps=0.05)
    for method, most in {"ibp": 3, "crown_ibp": 0.9, "crown": 0.3, "alpha_crown": 0.2}.items():
        assert (true - found[method]).mean() < most * drop, method


@pytest.mark.parametrize("of_masked", [False, True])
@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_without_relu_linear_bounds_are_exact(of_masked, eps):
    model, x, y = network("straight"), images(), labels()
    if of_masked:
        model = masked("straight").model
    true = exact("straight", of_masked, eps)
    for bound in bounds_of(model, x, y, eps=eps, methods=LINEAR).values():
        torch.testing.assert_close(bound.detach(), true.float(), rtol=1e-5, atol=1e-5)


def one_layer():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 3))


def by_hand(model, x, y, low, high):
    """One layer's minima: each pixel at the end of its own interval."""
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    rows = [[(weight[c] - weight[j], bias[c] - bias[j]) for j in range(3) if j != c] for c in y]
    return torch.stack(
        [
            torch.stack([w.clamp(0) @ a + w.clamp(None, 0) @ b + c for w, c in row])
            for row, a, b in zip(rows, low.flatten(1), high.flatten(1), strict=True)
        ]
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_box_is_cut_to_0_and_1(method):
    model, x, y, eps = one_layer(), images(), labels(), 0.4
    true = by_hand(model, x, y, (x - eps).clamp(0, 1), (x + eps).clamp(0, 1))
    uncut = by_hand(model, x, y, x - eps, x + eps)
    assert (true - uncut).mean() > 0.1
    found = Bounds(model, x).margins(model, x, y, eps=eps, method=method)
    torch.testing.assert_close(found.detach(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_box_is_not_cut_to_what_the_batch_holds(method):
    model, y, eps = one_layer(), labels(), 0.2
    grey = 0.4 + 0.2 * torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    true = by_hand(model, grey, y, grey - eps, grey + eps)
    narrow = ((grey - eps).clamp(grey.min()), (grey + eps).clamp(None, grey.max()))
    assert (by_hand(model, grey, y, *narrow) > true + 0.1).all()
    found = Bounds(model, grey).margins(model, grey, y, eps=eps, method=method)
    torch.testing.assert_close(found.detach(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
def test_an_image_does_not_know_its_batch(method):
    """CROWN's hidden bounds do: it computes those of neurons that any image makes unstable."""
    model, x, y = network("normalised"), images(), labels()
    graph = Bounds(model, x)
    together = graph.margins(model, x, y, eps=0.2, method=method)
    for i in range(3):
        alone = graph.margins(model, x[i : i + 1], y[i : i + 1], eps=0.2, method=method)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
