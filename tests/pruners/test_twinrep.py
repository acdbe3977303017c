"""Products of two factors: their scale, the threshold by brute force, and what is baked."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune import pruners
from robustprune.types import Progress
from tests.pruners.nets import at_work, network, sections

X = torch.rand(10, 2, 5, 5, generator=torch.Generator().manual_seed(0))


def started(model: nn.Module | None = None, density: float = 0.3, **options):
    method, masked, stages = at_work("twinrep", model or network(), density, **options)
    method.prepare(stages[0], masked)
    method.begin(stages[0], masked)
    return method, masked, stages


def after(method, stage, masked, epoch: int, epochs: int = 100) -> None:
    method.after_epoch(stage, masked, None, Progress(epoch, epochs=epochs), {})


def factors(masked):
    named = masked.model.named_parameters()
    return {name: p for name, p in named if name.endswith("factor")}


def products(masked):
    return {name: weight.detach().clone() for name, weight in masked.unmasked().items()}


def test_factors_are_drawn_as_torch_draws_weights_and_multiply_them():
    _, masked, _ = started()
    plain = network().state_dict()
    first, second = factors(masked).values()
    assert first.abs().max() <= 1 / math.sqrt(18)
    assert second.abs().max() <= 1 / math.sqrt(36)
    assert second.std().item() == pytest.approx(1 / math.sqrt(3 * 36), rel=0.1)
    expected = plain["0.weight"] * first.detach()
    assert torch.equal(masked.model[0].weight, expected)
    assert masked.kept == masked.prunable


def test_both_factors_get_gradients_and_are_trained():
    method, masked, (stage, _) = started()
    with masked.cached():
        F.cross_entropy(masked.model(X), torch.arange(10) % 5).backward()
    weight, factor = (
        masked.weights["3.weight"],
        factors(masked)["3.parametrizations.weight.0.factor"],
    )
    seen = weight.grad / factor.detach()
    torch.testing.assert_close(factor.grad, seen * weight.detach(), rtol=1e-3, atol=1e-6)
    trained = {id(p) for group in method.param_groups(stage, masked) for p in group["params"]}
    assert {id(weight), id(factor)} <= trained


def test_the_mask_is_a_threshold_on_all_products_after_nine_epochs_of_a_hundred():
    model = network()
    nn.init.uniform_(model[3].weight, -0.3, 0.3)  # of the other layer's scale
    method, masked, (stage, _) = started(model)
    before = products(masked)
    for epoch in range(8):
        after(method, stage, masked, epoch)
        assert masked.kept == 252
        assert not method.eligible(stage, masked)
    after(method, stage, masked, 8)
    every = sorted(w.abs() for w in torch.cat([w.flatten() for w in before.values()]))
    threshold = every[-round(0.3 * 252)]
    for name, weight in before.items():
        assert torch.equal(masked.masks[name], weight.abs() >= threshold)
        assert bool(masked.masks[name].any())
    assert method.eligible(stage, masked)


def test_the_mask_stays_and_the_last_stage_sets_it_only_if_it_is_not():
    method, masked, (stage, last) = started()
    after(method, stage, masked, 1, epochs=4)  # the share of 4 epochs is one epoch
    masks = {name: mask.clone() for name, mask in masked.masks.items()}
    for weight in masked.weights.values():
        nn.init.normal_(weight)
    after(method, stage, masked, 2, epochs=4)
    method.begin(last, masked)
    assert all(torch.equal(mask, masks[name]) for name, mask in masked.masks.items())
    method, masked, (_, last) = started()
    method.begin(last, masked)
    assert masked.kept == round(0.3 * 252)


def test_the_time_of_the_mask_is_an_option():
    method, masked, (stage, _) = started(after=0.5)
    after(method, stage, masked, 4, epochs=10)
    assert method.pruned
    method, masked, (stage, _) = started(after=0.5)
    after(method, stage, masked, 3, epochs=10)
    assert not method.pruned


def test_filters_go_by_the_norm_of_their_products():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(36, 5))
    method, masked, (stage, _) = started(model, 0.5, structure="filter")
    first = {name: w.flatten(1).norm(dim=1) for name, w in products(masked).items()}
    after(method, stage, masked, 99)
    threshold = torch.cat(list(first.values())).sort().values[-5]
    for name, norms in first.items():
        assert torch.equal(masked.masks[name].flatten(1).any(1), norms >= threshold)
    by_sums = {n: w.abs().flatten(1).sum(1).argsort() for n, w in products(masked).items()}
    assert any(not torch.equal(by_sums[n], norms.argsort()) for n, norms in first.items())


def test_what_is_baked_computes_the_same():
    method, masked, (stage, _) = started()
    after(method, stage, masked, 99)
    model = masked.model.eval()
    expected, products_now = model(X), products(masked)
    masks = masked.bake()
    assert torch.equal(model(X), expected)
    assert torch.equal(model[0].weight, torch.where(masks["0.weight"], products_now["0.weight"], 0))
    assert sorted(model.state_dict()) == sorted(network().state_dict())


def test_rescaled_products_have_the_weights_norm():
    _, masked, _ = started(rescale=True)
    for name, weight in masked.weights.items():
        assert products(masked)[name].norm() == pytest.approx(weight.norm().item(), rel=1e-4)


def test_one_training_from_scratch():
    pruner = pruners.create("twinrep", train={"epochs": 7})
    stages = pruner.stages(0.1, sections())
    assert [(s.name, s.options and s.options.epochs) for s in stages] == [
        ("train", 7),
        ("select", None),
    ]
    assert pruner.needs() == ("init",)
