"""Bounds are of the network as it is at that moment, leave it alone, and refuse some."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune.adapters.bounds import METHODS, TOLERANCE, Bounds, certified
from robustprune.errors import UsageError
from tests.masks import renew

from .tiny import NETWORKS, clean_margins, images, labels, masked, network


def margins(model, method, *, eps=0.1, x=None, y=None):
    x, y = images() if x is None else x, labels() if y is None else y
    return Bounds(model, x).margins(model, x, y, eps=eps, method=method)


@pytest.mark.slow
@pytest.mark.parametrize("of_masked", [False, True])
def test_nothing_goes_stale_while_a_network_trains(of_masked):
    whole = masked("conv_norm", density=0.5) if of_masked else None
    if whole:
        whole.add_scores(whole.weights)
    model = (whole.model if whole else network("conv_norm")).train().requires_grad_(True)
    x, y, kept = images(9), labels(9), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Bounds(model, x)
    for _ in range(5):
        optimizer.zero_grad()
        loss = (
            F.cross_entropy(model(x), y) - kept.margins(model, x, y, eps=0.1, method="ibp").mean()
        )
        loss.backward()
        optimizer.step()
        if whole:
            renew(whole, 0.5)
        found = kept.forward(model, x)
        fresh = Bounds(model, x)
        for method in ("ibp", "crown_ibp", "crown"):
            old, new = (b.margins(model, x, y, eps=0.1, method=method) for b in (kept, fresh))
            torch.testing.assert_close(old, new, rtol=1e-5, atol=1e-5)
        assert all(module.training for module in model.modules())
        torch.testing.assert_close(found, model.eval()(x), rtol=1e-5, atol=1e-5)
        model.train()


@pytest.mark.slow
def test_bounds_are_of_the_network_that_is_handed_over():
    """Its normalisation included, which no state dict holds."""
    x, y = images(), labels()
    first, second = network("normalised", seed=2), network("normalised", seed=3)
    second.normalize.std.mul_(2)
    bounds = Bounds(first, x)
    torch.testing.assert_close(bounds.forward(second, x), second(x))
    for method in METHODS:
        found = bounds.margins(second, x, y, eps=0.1, method=method)
        torch.testing.assert_close(found, margins(second, method))


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_was(method):
    model = masked("normalised").model.train()
    model.backbone[0].eval()
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    wanting = [parameter.requires_grad for parameter in model.parameters()]
    margins(model, method)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanting
    assert all(parameter.grad is None for parameter in model.parameters())
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()) is frozen


def test_a_module_that_holds_bounds_has_no_more_parameters():
    model = network("mlp")
    names = [name for name, _ in model.named_parameters()]
    modules = list(model.modules())
    model.bounds = Bounds(model, images())
    model.bounds.margins(model, images(), labels(), eps=0.1, method="crown")
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.modules()) == modules


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_box_of_one_point_gives_the_margins_themselves(method):
    for name in NETWORKS:
        model = network(name)
        expected = clean_margins(model, images(), labels())
        torch.testing.assert_close(margins(model, method, eps=0.0).detach(), expected)


def test_layout_and_autocast_change_nothing():
    model, x = network("conv_norm"), images()
    expected = margins(model, "crown")
    last = network("conv_norm").to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        margins(last, "crown", x=x.contiguous(memory_format=torch.channels_last)), expected
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(margins(model, "crown"), expected)


def test_bounds_fit_images_of_their_own_shape():
    bounds = Bounds(network("conv"), images())
    assert bounds.fits(images(1))
    assert not bounds.fits(torch.zeros(3, 2, 3, 4))
    assert not bounds.fits(torch.zeros(3, 1, 3, 3))


def test_a_margin_must_exceed_the_tolerance_of_its_own_image():
    logits = torch.tensor([[10.0, -20.0, 3.0], [1.0, 0.5, 0.0], [1.0, 0.5, 0.0]])
    edge = TOLERANCE * torch.tensor([20.0, 1.0, 1.0])
    above, at = edge * 1.01, edge
    pairs = torch.stack([above, torch.ones(3)], 1)
    assert certified(pairs, logits).tolist() == [True] * 3
    assert certified(torch.stack([torch.ones(3), at], 1), logits).tolist() == [False] * 3
    assert certified(torch.tensor([[1.0, -1.0]] * 3), logits).tolist() == [False] * 3


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_what_is_not_a_number_certifies_nothing(bad):
    logits = torch.ones(1, 3)
    assert not certified(torch.tensor([[1.0, bad]]), logits).item()
    assert not certified(torch.ones(1, 2), torch.tensor([[1.0, 2.0, torch.nan]])).item()
    assert not certified(torch.ones(1, 2), torch.tensor([[1.0, 2.0, torch.inf]])).item()
    model = network("mlp")
    bounds = Bounds(model, images())
    model[1].weight.data[0, 0] = bad
    for method in METHODS:
        found = bounds.margins(model, images(), labels(), eps=0.1, method=method)
        assert not certified(found, model(images())).any()


class Unlike(nn.Module):
    """Another function of an image than its graph is, in one of several ways."""

    def __init__(self, function):
        super().__init__()
        self.function, self.net = function, network("mlp")

    def forward(self, x):
        return self.net(self.function(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / x.max().item(),
        lambda x: x if x.mean() > 0.5 else 1 - x,
    ],
    ids=["of a number read off it", "of a branch"],
)
def test_a_network_whose_graph_is_another_function_is_refused(function):
    with pytest.raises(UsageError, match=r"other logits than each image alone .*smoothing"):
        Bounds(Unlike(function), images())


def test_a_graph_for_one_image_is_refused_with_the_remedy():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network("mlp")

        def forward(self, x):
            return self.net(x.view(x.size(0), -1))

    with pytest.raises(UsageError, match=r"fixed the number of images.*x\.flatten\(1\)"):
        Bounds(Viewed(), images())


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(2, track_running_stats=False), nn.InstanceNorm2d(2)],
    ids=["BatchNorm2d", "InstanceNorm2d"],
)
def test_normalisation_by_the_batch_at_hand_is_refused(layer):
    model = nn.Sequential(nn.Conv2d(2, 2, 1), layer, nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(UsageError, match=r"layer '1' .*track_running_stats=True"):
        Bounds(model, images())


def test_dropout_does_nothing():
    torch.manual_seed(0)
    inner = (nn.Dropout(0.9), nn.ReLU(), nn.Dropout(0.9), nn.Linear(6, 3))
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 6), *inner).train()
    without = nn.Sequential(model[0], model[1], model[3], model[5])
    for method in METHODS:
        torch.testing.assert_close(margins(model, method), margins(without, method))


def test_bounds_draw_from_no_generator():
    state = torch.get_rng_state()
    model = network("conv_norm")
    torch.set_rng_state(state)
    for method in METHODS:
        margins(model, method)
    assert torch.equal(torch.get_rng_state(), state)
