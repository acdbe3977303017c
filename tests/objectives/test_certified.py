"""The objectives on certified bounds, against hand-computed cases and finite differences."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune.adapters.bounds import Bounds
from robustprune.objectives import create
from robustprune.objectives.certified import robust_cross_entropy
from robustprune.types import Progress
from tests.masks import learning

from .toys import linear, network

EPS = 0.1
RAMP = {"epochs": 4}
HALF = Progress(epoch=2, fraction=0.25, epochs=8)  # a ramp of 4 epochs is half over


def data(n=3):
    """Images away from the edges of [0, 1], so that no box is cut."""
    generator = torch.Generator().manual_seed(2)
    images = 0.25 + 0.5 * torch.rand(n, 1, 2, 2, generator=generator)
    return images, torch.arange(n) % 3


def worst(model, images, labels, eps):
    """CE of the worst logits of a linear network: each margin falls by eps·‖w_y − w_j‖₁."""
    weight, logits = model[1].weight, model(images)
    lost = eps * (weight[labels].unsqueeze(1) - weight).abs().sum(2)
    return F.cross_entropy(logits + lost, labels)


@pytest.mark.parametrize("name", ["ibp", "crown_ibp"])
def test_the_robust_part_of_a_linear_network_is_exact(name):
    model, (images, labels) = linear(3), data()
    loss = create(name, eps=EPS)(model, images, labels, Progress())
    assert loss.parts["robust"].item() == pytest.approx(worst(model, images, labels, EPS).item())
    assert torch.equal(loss.logits, model(images))


def test_ibp_moves_from_the_clean_loss_to_the_mixture_as_eps_grows():
    model, (images, labels) = linear(3), data()
    objective = create("ibp", eps=EPS, ramp=RAMP, kappa_start=0.8, kappa=0.4)
    clean = F.cross_entropy(model(images), labels)
    half, whole = (worst(model, images, labels, eps) for eps in (EPS / 2, EPS))
    found = [
        objective(model, images, labels, progress).total.item()
        for progress in (Progress(epochs=8), HALF, HALF._replace(fraction=0.5))
    ]
    expected = [clean, 0.6 * clean + 0.4 * half, 0.4 * clean + 0.6 * whole]
    assert found == pytest.approx([value.item() for value in expected])


def test_ibp_ends_at_gowals_half():
    model, (images, labels) = linear(3), data()
    objective, progress = create("ibp", eps=EPS, ramp=RAMP), Progress(stage="finetune")
    loss = objective(model, images, labels, progress)
    clean, robust = F.cross_entropy(model(images), labels), worst(model, images, labels, EPS)
    assert loss.total.item() == pytest.approx((0.5 * clean + 0.5 * robust).item())


def deep():
    torch.manual_seed(5)
    layers = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
    return nn.Sequential(nn.Flatten(), *layers)


def test_crown_ibp_mixes_the_margins_by_how_far_the_ramp_is():
    model, (images, labels) = deep(), data()
    objective = create("crown_ibp", eps=EPS, ramp={"epochs": 4})
    quarter = Progress(fraction=0.125, epochs=8)
    bounds = Bounds(model, images)
    of = {"eps": EPS / 4}
    linear_, interval = (
        bounds.margins(model, images, labels, method=method, **of)
        for method in ("crown_ibp", "ibp")
    )
    assert not torch.allclose(linear_, interval)
    margins = 0.75 * linear_ + 0.25 * interval
    each = torch.log1p(torch.exp(-margins).sum(1))
    loss = objective(model, images, labels, quarter)
    assert loss.total.item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_crown_ibp_is_ibp_after_the_ramp_and_in_stages_without_one(monkeypatch):
    model, (images, labels) = deep(), data()
    used = []
    for name in ("margins", "interval_and_linear"):
        original = getattr(Bounds, name)

        def noted(*inputs, name=name, original=original, **options):
            used.append(options.get("method", name))
            return original(*inputs, **options)

        monkeypatch.setattr(Bounds, name, noted)
    objective = create("crown_ibp", eps=EPS, ramp={"epochs": 4})
    for progress in (Progress(fraction=0.5, epochs=8), Progress(stage="prune", epochs=8)):
        objective(model, images, labels, progress)
    assert used == ["ibp", "ibp"]
    objective(model, images, labels, Progress(fraction=0.1, epochs=8))
    assert used[2:] == ["interval_and_linear"]


def test_fusion_mixes_losses():
    model, (images, labels) = deep(), data()
    objective = create("crown_ibp", eps=EPS, ramp={"epochs": 4}, fusion=True)
    bounds = Bounds(model, images)
    interval = bounds.margins(model, images, labels, eps=EPS / 4, method="ibp")
    fused = bounds.cross_entropy(model, images, labels, eps=EPS / 4).mean()
    expected = 0.75 * fused + 0.25 * robust_cross_entropy(interval)
    loss = objective(model, images, labels, Progress(fraction=0.125, epochs=8))
    assert loss.total.item() == pytest.approx(expected.item())


def test_kappa_weighs_the_clean_loss_of_crown_ibp():
    model, (images, labels) = linear(3), data()
    loss = create("crown_ibp", eps=EPS, kappa=0.25)(model, images, labels, Progress())
    clean, robust = F.cross_entropy(model(images), labels), worst(model, images, labels, EPS)
    assert loss.total.item() == pytest.approx((0.25 * clean + 0.75 * robust).item())
    alone = create("crown_ibp", eps=EPS)(model, images, labels, Progress())
    assert not alone.logits.requires_grad  # HYDRA's κ = 0 spares the clean backward pass


@pytest.mark.parametrize("name", ["ibp", "crown_ibp", "mixtrain"])
def test_a_radius_of_0_is_plain_training(name):
    model, (images, labels) = deep(), data()
    loss = create(name, eps=EPS, ramp={"epochs": 2, "start": 1})(
        model, images, labels, Progress(fraction=0.1, epochs=8)
    )
    assert loss.total.item() == F.cross_entropy(model(images), labels).item()
    loss.total.backward()
    assert model[1].weight.grad.any()


@pytest.mark.parametrize("name", ["ibp", "crown_ibp", "mixtrain"])
def test_the_network_learns_its_statistics_from_the_clean_images_only(name):
    model, twin = network().train(), network().train()
    images = torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 5
    options = {"probability": 1.0} if name == "mixtrain" else {}
    create(name, **options)(model, images, labels, Progress(epochs=4))
    twin(images)
    assert torch.equal(model[1].running_mean, twin[1].running_mean)
    assert torch.equal(model[1].running_var, twin[1].running_var)


@pytest.mark.parametrize("name", ["ibp", "crown_ibp", "mixtrain"])
def test_another_network_gets_bounds_of_its_own(name):
    images, labels = data()
    options = {"probability": 1.0, "samples": 3} if name == "mixtrain" else {}
    objective = create(name, eps=EPS, **options)
    totals = []
    for each in (objective, objective.fresh()):
        other = deep()
        other[1].weight.data.mul_(2)
        if each is objective:
            each(deep(), images, labels, Progress())
        torch.manual_seed(0)
        totals.append(each(other, images, labels, Progress()).total)
    assert torch.equal(*totals)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "progress", "options"),
    [
        ("ibp", HALF, {"ramp": RAMP}),
        ("crown_ibp", HALF, {"ramp": RAMP, "kappa": 0.3}),
        ("mixtrain", Progress(), {"probability": 1.0, "samples": 3}),
    ],
)
def test_score_gradients_are_those_of_the_masked_weights_times_the_weights(name, progress, options):
    """Straight through: ds = w · sign(s) · dL/d(mask·w), the latter by central differences.

    The scores' signs are the weights'. Pruned weights are among them: at their 0 a bound may have
    a kink, as |w| has; the library takes the mean of both slopes, as central differences do.
    """
    images, labels = data()
    objective = create(name, eps=EPS, **options)
    masked = learning(deep(), density=0.6)
    layer = masked.model[3]
    effective, weight = layer.weight.detach().clone(), layer.parametrizations.weight.original
    torch.manual_seed(7)
    with masked.cached():
        objective(masked.model, images, labels, progress).total.backward()
    (scores,) = (s for s in masked.scores.values() if s.shape == weight.shape and s.grad.any())
    plain = deep()
    masked.bake()
    plain.load_state_dict(masked.model.state_dict())

    def loss(index, step):
        with torch.no_grad():
            plain[3].weight.copy_(effective)
            plain[3].weight[index] += step
            torch.manual_seed(7)
            return objective(plain, images, labels, progress).total.item()

    h = 5e-4
    for index in [(i, j) for i in range(6) for j in range(6)]:
        slope = (loss(index, h) - loss(index, -h)) / (2 * h)
        assert scores.grad[index].item() == pytest.approx(
            weight[index].abs().item() * slope, rel=3e-2, abs=4e-4
        )


def test_mixtrains_weight_grows_from_the_ramps_end():
    objective = create("mixtrain", ramp={"epochs": 15})
    weights = [objective.weight(Progress(epoch=epoch)) for epoch in (0, 15, 19, 20, 24, 25, 60)]
    assert weights == pytest.approx([0.1, 0.1, 0.1, 0.25, 0.25, 0.625, 50])
    finetune = [objective.weight(Progress(epoch=e, stage="finetune")) for e in (0, 4, 5, 34, 35)]
    assert finetune == pytest.approx([0.1, 0.1, 0.25, 0.1 * 2.5**6, 50])
    assert create("mixtrain", most=3).weight(Progress(epoch=40)) == 3


def test_mixtrain_adds_the_robust_loss_of_some_samples():
    model, (images, labels) = linear(3), data(8)
    objective = create("mixtrain", eps=EPS, samples=2, probability=1.0)
    torch.manual_seed(3)
    loss = objective(model, images, labels, Progress())
    clean = F.cross_entropy(model(images), labels)
    pairs = [torch.tensor([i, j]) for i in range(8) for j in range(i)]
    possible = [worst(model, images[pair], labels[pair], EPS).item() for pair in pairs]
    assert min(abs(value - loss.parts["robust"].item()) for value in possible) < 1e-6
    assert loss.total.item() == pytest.approx((clean + 0.1 * loss.parts["robust"]).item())


@pytest.mark.slow
def test_mixtrain_takes_its_turn_with_its_probability():
    model, (images, labels) = linear(3), data()
    objective = create("mixtrain", eps=EPS)
    torch.manual_seed(0)
    turns = 400
    losses = [objective(model, images, labels, Progress()) for _ in range(turns)]
    taken = sum(bool(loss.parts["robust"]) for loss in losses)
    assert abs(taken - 0.8 * turns) < 4 * math.sqrt(0.16 * turns)
    without = next(loss for loss in losses if not loss.parts["robust"])
    assert without.total.item() == F.cross_entropy(model(images), labels).item()
