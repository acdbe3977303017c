"""Masks of untrained networks: what moves, and what never does."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune import pruners
from robustprune.types import Progress
from tests.pruners.nets import at_work, network, sections

X = torch.rand(10, 2, 5, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10) % 5
PLAIN = network().state_dict()


def searching(name: str = "edge_popup", density: float = 0.3, **options):
    model = network()
    nn.init.uniform_(model[1].weight)
    nn.init.uniform_(model[1].bias)
    other = {n: tensor + 1 for n, tensor in network().state_dict().items()}
    method, masked, stages = at_work(name, model, density, checkpoints={"fresh": other}, **options)
    method.prepare(stages[0], masked)
    method.begin(stages[0], masked)
    return method, masked, stages


def train(method, masked, stage, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(method.param_groups(stage, masked), lr=1.0, weight_decay=0.1)
    for _ in range(steps):
        method.train_mode(stage, masked)
        optimizer.zero_grad()
        with masked.cached():
            F.cross_entropy(masked.model(X), Y).backward()
        optimizer.step()
        method.after_step(stage, masked, optimizer, Progress())


def test_weights_are_constants_with_the_signs_that_were_drawn_and_never_move():
    method, masked, (stage,) = searching()
    scores = {name: score.detach().clone() for name, score in masked.scores.items()}
    masks = masked.masks
    train(method, masked, stage)
    for name, fan_in in (("0.weight", 18), ("3.weight", 36)):
        weight = masked.weights[name].detach()
        torch.testing.assert_close(weight, PLAIN[name].sign() * math.sqrt(2 / fan_in))
        assert not torch.equal(masked.scores[name], scores[name])
    assert any(not torch.equal(mask, masks[name]) for name, mask in masked.masks.items())
    assert all(torch.equal(masked.model.state_dict()[n], PLAIN[n]) for n in ("0.bias", "3.bias"))


def test_norms_have_no_affine_part_and_their_statistics_move():
    method, masked, (stage,) = searching()
    before = masked.model.eval()[1].running_mean.clone()
    train(method, masked, stage)
    norm = masked.model[1]
    assert norm.weight.tolist() == [1.0] * 4
    assert norm.bias.tolist() == [0.0] * 4
    assert not torch.equal(norm.running_mean, before)


def test_first_scores_are_kaiming_uniform_and_masks_their_largest():
    _, masked, _ = searching()
    for name, fan_in in (("0.weight", 18), ("3.weight", 36)):
        size = masked.scores[name].detach().abs()
        assert 0.8 / math.sqrt(fan_in) < size.max() <= 1 / math.sqrt(fan_in)
        mask = masked.masks[name]
        assert int(mask.sum()) == round(0.3 * mask.numel())
        assert size[mask].min() > size[~mask].max()


@pytest.mark.parametrize("density", [0.25, 1.0])
def test_scaled_constants_give_a_layer_the_variance_that_it_has_with_all_its_weights(density):
    _, masked, _ = searching(density=density, scaled=True)
    for name, fan_in in (("0.weight", 18), ("3.weight", 36)):
        expected = torch.full_like(PLAIN[name], math.sqrt(2 / fan_in / density))
        torch.testing.assert_close(masked.weights[name].detach().abs(), expected)


def test_plain_weights_are_those_of_the_initialisation():
    method, masked, (stage,) = searching(weights="plain")
    train(method, masked, stage)
    for name, weight in masked.weights.items():
        assert torch.equal(weight, PLAIN[name])


def test_a_ticket_goes_on_with_the_weights_that_it_was_found_with():
    method, masked, (search, finetune) = searching("robust_scratch_ticket")
    train(method, masked, search)
    masks, weights = masked.masks, {n: w.detach().clone() for n, w in masked.weights.items()}
    method.prepare(finetune, masked)
    method.begin(finetune, masked)
    assert not masked.scores
    assert all(torch.equal(w, weights[n]) for n, w in masked.weights.items())
    train(method, masked, finetune)
    assert all(not torch.equal(w, weights[n]) for n, w in masked.weights.items())
    assert masked.model[1].weight.tolist() != [1.0] * 4
    assert all(torch.equal(mask, masks[n]) for n, mask in masked.masks.items())


def test_or_from_another_initialisation_under_the_same_mask():
    method, masked, (search, finetune) = searching("robust_scratch_ticket", then="reinit")
    train(method, masked, search)
    masks = masked.masks
    method.prepare(finetune, masked)
    method.begin(finetune, masked)
    for name, weight in masked.weights.items():
        torch.testing.assert_close(weight.detach(), PLAIN[name] + 1)
        assert torch.equal(masked.masks[name], masks[name])
    assert masked.model[1].weight.tolist() == [2.0] * 4


def test_weights_that_are_initialised_anew_are_scaled_too():
    method, masked, (search, finetune) = searching(
        "robust_scratch_ticket", 0.25, then="reinit", scaled=True, weights="plain"
    )
    torch.testing.assert_close(masked.weights["0.weight"].detach(), 2 * PLAIN["0.weight"])
    method.prepare(finetune, masked)
    method.begin(finetune, masked)
    torch.testing.assert_close(masked.weights["0.weight"].detach(), 2 * (PLAIN["0.weight"] + 1))
    assert search.name == "search"


def test_or_stays_as_it_was_found():
    stages = pruners.create("robust_scratch_ticket", then=None).stages(0.1, sections())
    assert [stage.name for stage in stages] == ["search"]
    assert pruners.create("robust_scratch_ticket").needs() == ("init",)
    assert pruners.create("robust_scratch_ticket", then="reinit").needs() == ("init", "fresh")


def test_the_search_goes_by_the_section_of_networks_from_scratch():
    edge = pruners.create("edge_popup", search={"epochs": 9})
    (stage,) = edge.stages(0.1, sections())
    assert (stage.name, stage.options.epochs) == ("search", 9)
