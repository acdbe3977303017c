import math
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune.objectives import create
from robustprune.objectives.l2 import ascend, unit
from robustprune.types import Progress

from .toys import batch, linear, network


def grey(n=3):
    """Images far from the edges of [0, 1], so that no small δ is clipped, and labels."""
    return torch.full((n, 1, 2, 2), 0.5), torch.arange(n) % 2


def recorded(model):
    """The network's inputs from now on, and the mode in which it got each."""
    inputs = []
    model.register_forward_pre_hook(
        lambda module, args: inputs.append((args[0].detach().clone(), module.training))
    )
    return inputs


def plain_smoothadv(model, images, labels, noise, *, eps, steps):
    """The attack from its paper, in plain PyTorch, with probabilities as they are."""
    model.eval()
    x = images
    for _ in range(steps):
        x = x.detach().requires_grad_()
        mean = torch.stack([F.softmax(model(x + eta), dim=1) for eta in noise]).mean(0)
        loss = -mean[torch.arange(len(labels)), labels].log().sum()
        gradient = torch.autograd.grad(loss, x)[0].flatten(1)
        step = 2 * eps / steps * gradient / gradient.norm(dim=1, keepdim=True)
        delta = (x.detach() - images).flatten(1) + step
        length = delta.norm(dim=1, keepdim=True)
        delta = torch.where(length > eps, delta * eps / length, delta)
        x = (images + delta.view_as(images)).clamp(0, 1)
    model.train()
    return x.detach()


def test_total_equals_a_plain_smoothadv():
    images, labels = batch()
    images, plain, model = images.double(), network().double(), network().double()
    torch.manual_seed(9)
    noise = 0.3 * torch.randn(3, *images.shape, dtype=torch.double)
    x = plain_smoothadv(plain, images, labels, noise, eps=0.7, steps=5)
    logits = plain(torch.cat([x + eta for eta in noise]))
    expected = F.cross_entropy(logits, torch.cat([labels] * 3))
    objective = create("smoothadv", eps=0.7, sigma=0.3, noises=3, steps=5)
    torch.manual_seed(9)
    loss = objective(model, images, labels, Progress())
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-10)
    mean = F.softmax(logits, dim=1).view(3, 6, 5).mean(0)
    assert torch.allclose(loss.logits, mean.log())
    expected.backward()
    loss.total.backward()
    for one, two in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, rtol=1e-7, atol=1e-12)


def perturbed(model, images, labels, noise, **options):
    """X + δ under noises of our choice."""
    objective = create("smoothadv", sigma=1, noises=len(noise), **options)
    with mock.patch("torch.randn", return_value=noise):
        return (objective.attack(model, images, labels, Progress()) - noise)[0]


@pytest.mark.parametrize("noises", [1, 4])
def test_a_linear_classifier_is_moved_along_its_weights_to_the_edge_of_the_ball(noises):
    """Two classes: whatever the noise, the gradient points along ±(w₁ − w₀)."""
    (images, labels), model = grey(), linear()
    noise = 0.25 * torch.randn(noises, *images.shape)
    delta = perturbed(model, images, labels, noise, eps=0.2, steps=3) - images
    difference = (model[1].weight[1] - model[1].weight[0]).detach()
    away = torch.where(labels == 0, 1.0, -1.0)[:, None] * difference / difference.norm()
    assert torch.allclose(delta.flatten(1), 0.2 * away, atol=1e-6)


def test_a_step_has_the_stated_length():
    (images, labels), model = grey(), linear()
    inputs = recorded(model)
    noise = torch.randn(2, *images.shape)
    perturbed(model, images, labels, noise, eps=0.3, steps=4, step_size=0.1)
    delta = (inputs[1][0] - inputs[0][0]).flatten(1)
    assert torch.allclose(delta.norm(dim=1), torch.tensor(0.1), atol=1e-6)


class OneDimensional(nn.Module):
    """The logit of class 0 against 1, as a function of the first pixel only."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, images):
        first = self.logit(images[:, 0, 0, 0])
        return torch.stack([first, torch.zeros_like(first)], dim=1)


def test_the_attack_raises_the_smoothed_loss_not_the_mean_of_the_losses():
    """Where the two disagree: a noisy copy that is lost has a say in the mean only.

    At the noise −1 the class has probability e⁻⁸ or so, and its log falls to the left; at +1 it
    has about one half and its log falls, less steeply, to the right. The mean of the logs goes
    left; the log of the mean, which hardly sees the lost copy, goes right.
    """

    def logit(x):
        left = -8 + 3 * (x + 0.5)
        right = -(x - 1.5)
        return torch.where(x < 0.5, left, right)

    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    noise = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1)
    x = perturbed(OneDimensional(logit), images, labels, noise, eps=0.1, steps=1)
    assert x.item() == pytest.approx(0.6)


def test_attack_and_loss_see_the_same_noises():
    images, labels = grey()
    torch.manual_seed(1)
    model = linear()
    inputs = recorded(model)
    loss = create("smoothadv", noises=4, steps=3, eps=0.3)(model, images, labels, Progress())
    assert [training for _, training in inputs] == [False] * 3 + [True]
    copies = [x.unflatten(0, (4, 3)) for x, _ in inputs]
    noise = copies[0] - images  # the attack starts at the images themselves
    assert len({float(eta.sum()) for eta in noise.flatten(0, 1)}) == 12
    for copy in copies[1:]:
        delta = copy - noise - images
        assert torch.allclose(delta, delta[:1].expand_as(delta), atol=1e-6)
        assert 0 < delta.flatten(2).norm(dim=2).max() <= 0.3 * (1 + 1e-5)
    expected = F.cross_entropy(model(copies[-1].flatten(0, 1)), labels.repeat(4))
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_noises_are_drawn_anew_for_each_batch():
    images, labels = grey()
    model = linear()
    inputs = recorded(model)
    objective = create("smoothadv", steps=1)
    for _ in range(2):
        objective(model, images, labels, Progress())
    assert not torch.equal(inputs[0][0], inputs[2][0])


def test_images_stay_in_their_range_and_noisy_ones_do_not():
    images, labels = torch.zeros(4, 3, 10, 10), torch.arange(4) % 2
    images[:2] = 1
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 2))
    noise = torch.randn(2, *images.shape)
    x = perturbed(model, images, labels, noise, eps=3.0)
    assert x.min() >= -1e-6
    assert x.max() <= 1 + 1e-6
    assert not torch.equal(x, images)
    assert (x - images).flatten(1).norm(dim=1).max() <= 3 * (1 + 1e-5)
    inputs = recorded(model)
    create("smoothadv")(model, images, labels, Progress())
    assert inputs[-1][0].min() < -0.5
    assert inputs[-1][0].max() > 1.5
    spread = inputs[0][0].unflatten(0, (2, 4)) - images
    assert spread.std().item() == pytest.approx(0.25, rel=0.05)


def test_logits_are_the_logarithms_of_the_mean_probabilities():
    images, labels = grey()
    loss = create("smoothadv", noises=5)(linear(3), images, labels, Progress())
    assert loss.logits.shape == (3, 3)
    assert torch.allclose(loss.logits.exp().sum(1), torch.ones(3))


def test_the_ramp_scales_radius_and_step():
    images, labels = grey()
    objective = create("smoothadv", eps=0.4, steps=4, ramp={"epochs": 10})
    for position, radius in [(0, 0.0), (2.5, 0.1), (5, 0.2), (15, 0.4)]:
        model = linear()
        inputs = recorded(model)
        torch.manual_seed(2)
        objective(model, images, labels, Progress(fraction=position / 20, epochs=20))
        torch.manual_seed(2)
        noise = 0.25 * torch.randn(2, *images.shape)
        moved = [
            (x.unflatten(0, (2, 3)) - noise - images).flatten(2).norm(dim=2) for x, _ in inputs
        ]
        assert torch.allclose(moved[-1], torch.full((2, 3), radius), atol=1e-5)
        if radius:  # steps of 2·radius/4, from the images themselves
            halves = [0, radius / 2, radius, radius, radius]
            assert [float(m.mean()) for m in moved] == pytest.approx(halves, abs=1e-5)


def test_no_radius_is_training_on_noise():
    images, labels = batch()
    gaussian, model = network(), network()
    torch.manual_seed(3)
    expected = create("gaussian")(gaussian, images, labels, Progress())
    torch.manual_seed(3)
    loss = create("smoothadv", eps=0, noises=1)(model, images, labels, Progress())
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=1e-6)
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("scale", [1e3, -1e3, 30, -30])
def test_certain_predictions_give_finite_losses_and_gradients(scale):
    """Right or wrong by far; a gradient of 1e-13 still gives a whole step."""
    images, _ = grey()
    labels = torch.zeros(3, dtype=torch.int64)
    model = linear()
    with torch.no_grad():
        model[1].bias += torch.tensor([scale, 0.0])
    objective = create("smoothadv", sigma=0.01)
    loss = objective(model, images, labels, Progress())
    loss.total.backward()
    assert loss.total.isfinite()
    assert loss.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    x = perturbed(model, images, labels, torch.zeros(2, *images.shape), eps=0.2)
    moved = (x - images).flatten(1).norm(dim=1)
    assert torch.allclose(moved, torch.full((3,), 0.0 if scale == 1e3 else 0.2), atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_unit_vectors_of_any_size(size):
    x = torch.tensor([3.0, 0.0, 0.0, -4.0]).view(1, 1, 2, 2)
    assert torch.allclose(unit(size * x), x / 5)
    assert torch.equal(unit(0 * x), torch.zeros_like(x))


def test_ascent_finds_the_nearest_point_of_the_ball_to_a_peak():
    images = torch.full((2, 1, 2, 2), 0.5)
    peak = torch.tensor([0.9, 0.5, 0.5, 0.2]).view(1, 1, 2, 2)
    x = ascend(
        lambda x: -((x - peak) ** 2).sum(), images, images, eps=0.1, step_size=0.02, steps=30
    )
    expected = images + 0.1 * torch.tensor([0.8, 0, 0, -0.6]).view(1, 1, 2, 2)
    assert torch.allclose(x, expected, atol=1e-3)
    assert not x.requires_grad


def test_a_mean_of_tiny_probabilities_keeps_its_logarithm():
    """Probabilities of e⁻²⁰⁰ are 0 in float32; their mean's logarithm is not −∞."""
    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    model = OneDimensional(lambda x: torch.full_like(x, -200.0) + 0 * x)
    loss = create("smoothadv", noises=3, eps=0)(model, images, labels, Progress())
    assert loss.logits[0, 0].item() == pytest.approx(-200)
    assert loss.total.item() == pytest.approx(200)
    assert math.isclose(loss.logits[0, 1].item(), 0, abs_tol=1e-6)


def test_half_precision_logits_give_a_float_loss():
    images, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = create("smoothadv")(network(), images, labels, Progress())
    assert loss.total.dtype == torch.float32
    assert loss.logits.dtype == torch.float32
