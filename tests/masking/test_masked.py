import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune.errors import UsageError
from robustprune.masking import allocations, attach, prunable_layers, select
from robustprune.models import create_model
from tests import masks
from tests.masking.nets import batch, counting, gradients, learning, network, pruned

A, B = "0.weight", "4.weight"


def test_prunable_are_convolutions_and_linear_layers():
    assert list(prunable_layers(network())) == ["0", "4"]


def test_masks_are_of_ones_at_first_and_change_nothing():
    model = network()
    images, _ = batch()
    before = copy.deepcopy(model)(images)
    masked = attach(model)
    assert list(masked.masks) == list(masked.weights) == [A, B]
    assert all(bool(mask.all()) for mask in masked.masks.values())
    assert (masked.kept, masked.prunable, masked.turnover, masked.initial) == (72, 72, 0.0, None)
    assert not masked.scores
    assert torch.equal(model(images), before)


def test_every_layer_keeps_its_share_and_the_network_computes_with_it():
    model = network()
    dense = copy.deepcopy(model)
    masked = masks.pruned(model, 0.25)
    assert [(r.name, r.shape, r.kept, r.total, r.density) for r in masked.report()] == [
        ("0", (2, 2, 3, 3), 9, 36, 0.25),
        ("4", (3, 12), 9, 36, 0.25),
    ]
    assert (masked.kept, masked.prunable, masked.turnover) == (18, 72, 0.0)
    for name, layer in prunable_layers(dense).items():
        threshold = layer.weight.abs().flatten().sort().values[-9]
        expected = torch.where(layer.weight.abs() >= threshold, layer.weight, 0.0)
        layer.weight.data = expected.data
        assert torch.equal(model.get_submodule(name).weight, expected)
    images, _ = batch()
    assert torch.equal(model(images), dense(images))


def test_channels_last_networks_get_the_same_masks():
    usual = masks.pruned(network(), 0.3)
    other = masks.pruned(network().to(memory_format=torch.channels_last), 0.3)
    for name, mask in usual.masks.items():
        assert torch.equal(mask, other.masks[name])
    other.set(usual.masks)
    assert other.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(usual.bake()[A], other.bake()[A])


def test_an_all_zero_layer_is_masked_and_has_no_nan():
    model = network()
    nn.init.zeros_(model[4].weight)
    masked = masks.pruned(model, 0.1)
    assert int(masked.masks[B].sum()) == 4
    assert bool(model(batch()[0]).isfinite().all())


@pytest.mark.parametrize("density", [0, -0.1, 1.5, float("nan")])
def test_densities_out_of_range_are_refused(density):
    masked = attach(network())
    with pytest.raises(UsageError, match=r"\(0, 1\]"):
        select(
            masked.weights,
            density,
            allocation=allocations.create("uniform"),
            structure=masked.structure,
        )


# -- the one door ----------------------------------------------------------------------------------


def test_a_change_says_what_was_dropped_and_what_has_grown():
    masked = attach(network())
    one = torch.ones(3, 12, dtype=torch.bool)
    one[0, :5] = False
    change = masked.set({B: one})
    assert list(change.dropped) == list(change.grown) == [B]
    assert torch.equal(change.dropped[B], ~one)
    assert not bool(change.grown[B].any())
    other = torch.ones(3, 12, dtype=torch.bool)
    other[0, 3:7] = False
    change = masked.set({B: other})
    assert change.grown[B].nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]
    assert change.dropped[B].nonzero().tolist() == [[0, 5], [0, 6]]
    assert bool(masked.masks[A].all()), "what is not named stays"


def test_a_mask_is_a_copy_and_no_weight_is_touched():
    masked = attach(network())
    before = {name: weight.clone() for name, weight in masked.weights.items()}
    mask = torch.zeros(3, 12, dtype=torch.bool)
    masked.set({B: mask})
    mask.fill_(True)
    assert not bool(masked.masks[B].any())
    masked.set({B: mask})
    mask.fill_(False)
    masked.model.load_state_dict(masked.model.state_dict())
    assert bool(masked.masks[B].all())
    assert torch.equal(masked.model[4].weight, before[B])
    assert all(torch.equal(weight, before[name]) for name, weight in masked.weights.items())


@pytest.mark.parametrize(
    "wrong",
    [
        {A: torch.ones(2, 2, 3, 3)},
        {A: torch.ones(2, 1, 1, 1, dtype=torch.bool)},
        {A: torch.ones(2, 2, 3, 3, dtype=torch.int64)},
        {"0": torch.ones(2, 2, 3, 3, dtype=torch.bool)},
    ],
    ids=["floats", "a shape that broadcasts", "integers", "a layer's name"],
)
def test_a_mask_that_does_not_fit_is_refused_and_nothing_changes(wrong):
    masked = attach(network())
    right = {B: torch.zeros(3, 12, dtype=torch.bool)}
    said = (
        r"expected booleans of shape \(2, 2, 3, 3\); got|no masked weight is '0'. Did you mean '0.w"
    )
    with pytest.raises(UsageError, match=said):
        masked.set(right | wrong)
    assert masked.kept == 72
    assert masked.initial is None


def test_of_numbers_in_place_of_a_mask_it_is_said_how_masks_are_made():
    masked = attach(network())
    with pytest.raises(UsageError, match=r"Write mask\.bool\(\)"):
        masked.set({A: torch.ones(2, 2, 3, 3)})
    with pytest.raises(UsageError, match=r"keep\(masked, importance\), or rp\.masking\.select"):
        masked.set({A: torch.full((2, 2, 3, 3), 0.3)})


def test_masks_cannot_change_inside_cached_and_can_after_it_even_if_it_failed():
    masked = learning()
    with masked.cached(), masked.cached(), pytest.raises(RuntimeError, match=r"inside cached\(\)"):
        masked.set({})
    with masked.cached():
        with masked.cached():
            pass
        with pytest.raises(RuntimeError, match=r"inside cached\(\)"):
            masked.set(masked.masks)
    with pytest.raises(ZeroDivisionError), masked.cached():
        1 / 0  # noqa: B018
    masked.set({A: torch.zeros(2, 2, 3, 3, dtype=torch.bool)})
    assert masked.kept == 9


def test_turnover_is_counted_from_the_first_masks_that_are_set():
    masked = learning()
    scores = masked.scores[B]
    kept = masked.masks[B].flatten().nonzero().squeeze(1)
    gone = (~masked.masks[B]).flatten().nonzero().squeeze(1)
    with torch.no_grad():
        scores.view(-1)[gone[:3]] = -100.0  # magnitude decides, whatever the sign
    masks.renew(masked, 0.25)
    assert masked.turnover == 3 / 18
    assert bool(masked.masks[B].flatten()[gone[:3]].all())
    assert int(masked.masks[B].flatten()[kept].sum()) == 6
    assert masked.kept == 18
    masked.set(masked.initial)
    assert masked.turnover == 0


# -- scores ----------------------------------------------------------------------------------------


def test_adding_and_dropping_scores_twice_is_harmless():
    masked = pruned()
    state = masked.model.state_dict().keys()
    masked.add_scores()
    scores = masked.scores
    assert not any(bool(score.any()) for score in scores.values())
    optimizer = torch.optim.SGD(scores.values(), lr=1.0)
    masked.add_scores(masked.weights)
    masked.add_scores()
    assert all(masked.scores[name] is score for name, score in scores.items())
    assert all(torch.equal(scores[name], weight) for name, weight in masked.weights.items())
    F.cross_entropy(masked.model(batch()[0]), batch()[1]).backward()
    optimizer.step()
    assert not torch.equal(masked.scores[B], masked.weights[B])
    for _ in range(2):
        masked.drop_scores()
        assert not masked.scores
        assert masked.model.state_dict().keys() == state
    assert masked.kept == 18


def test_weight_parameters_are_everything_but_scores():
    masked = learning()
    plain = network()
    assert len(masked.weight_parameters()) == len(list(plain.parameters()))
    mine = {id(parameter) for parameter in masked.weight_parameters()}
    assert not mine & {id(score) for score in masked.scores.values()}
    assert {id(weight) for weight in masked.weights.values()} <= mine


@pytest.mark.parametrize("scores", [True, False])
def test_an_optimizer_of_all_parameters_moves_no_mask(scores):
    """Whoever trains ``model.parameters()`` trains scores too: masks follow from them by set."""
    masked = pruned()
    if scores:
        masked.add_scores(masked.weights)
    before = {name: mask.clone() for name, mask in masked.masks.items()}
    optimizer = torch.optim.SGD(masked.model.parameters(), lr=10, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(masked.model(batch()[0]), batch()[1]).backward()
        optimizer.step()
    assert all(torch.equal(masked.masks[name], mask) for name, mask in before.items())


def test_global_shares_move_with_the_scores():
    masked = learning()
    masks.renew(masked, 0.25, allocation="global")
    with torch.no_grad():
        masked.scores[A].mul_(1000)
    masks.renew(masked, 0.25, allocation="global")
    assert [report.kept for report in masked.report()] == [17, 1]


def test_the_state_dict_brings_masks_and_scores_back():
    masked = learning()
    with torch.no_grad():
        masked.scores[A].neg_().reciprocal_()
    masks.renew(masked, 0.25)
    other = learning()
    other.model.load_state_dict(masked.model.state_dict())
    assert other.turnover == masked.turnover > 0
    for name, mask in masked.masks.items():
        assert torch.equal(other.masks[name], mask)
        assert torch.equal(other.scores[name], masked.scores[name])


# -- a step ----------------------------------------------------------------------------------------


def test_masked_weights_are_computed_once_a_step_and_anew_in_the_next():
    masked = learning()
    calls = counting(masked)
    images, labels = batch()
    for step in (1, 2):
        with masked.cached():
            losses = [F.cross_entropy(masked.model(images), labels) for _ in range(4)]
            sum(losses).backward()
        assert calls == {A: step, B: step}


def test_the_context_selects_nothing():
    masked = learning()
    with torch.no_grad():
        masked.scores[B].neg_().reciprocal_()
    before = masked.masks
    with masked.cached():
        masked.model(batch()[0])
    assert all(masked.masks[name] is mask for name, mask in before.items())


def test_outside_a_step_the_network_computes_with_the_current_weights():
    masked = pruned()
    images, _ = batch()
    with masked.cached():
        masked.model(images)
    before = masked.model(images)
    masked.weights[B].data.mul_(2)
    assert not torch.equal(masked.model(images), before)


def test_a_forward_without_gradients_first_does_not_cut_the_scores_off():
    plain, after = learning(), learning()
    images, labels = batch()
    with plain.cached():
        F.cross_entropy(plain.model(images), labels).backward()
    with after.cached():
        with torch.no_grad():
            after.model(images)
        F.cross_entropy(after.model(images), labels).backward()
    for one, other in zip(gradients(plain), gradients(after), strict=True):
        assert one is not None
        assert bool(one.any())
        assert torch.equal(one, other)


def test_an_attack_inside_leaves_the_final_gradients_alone():
    plain, attacked = learning(), learning()
    plain.model.eval()
    attacked.model.eval()
    images, labels = batch()
    with plain.cached():
        F.cross_entropy(plain.model(images), labels).backward()
    with attacked.cached():
        for _ in range(3):
            x = images.clone().requires_grad_()
            loss = F.cross_entropy(attacked.model(x), labels)
            (gradient,) = torch.autograd.grad(loss, [x])
            assert bool(gradient.any())
        F.cross_entropy(attacked.model(images), labels).backward()
    for one, other in zip(gradients(plain), gradients(attacked), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scores", [True, False])
def test_the_step_computed_once_has_the_gradients_of_the_one_that_is_not(scores):
    cached, recomputed = pruned(), pruned()
    images, labels = batch()
    for masked in (cached, recomputed):
        if scores:
            masked.add_scores(masked.weights)
    with cached.cached():
        F.cross_entropy(cached.model(images), labels).backward()
    F.cross_entropy(recomputed.model(images), labels).backward()
    pairs = zip(cached.model.parameters(), recomputed.model.parameters(), strict=True)
    for one, other in pairs:
        assert torch.equal(one.grad, other.grad)


def test_dense_gradients_are_those_of_the_weights_that_the_network_sees():
    masked = pruned()
    plain = copy.deepcopy(masked)
    plain.bake()
    images, labels = batch()
    F.cross_entropy(plain.model(images), labels).backward()
    with masked.dense_gradients(), masked.cached():
        F.cross_entropy(masked.model(images), labels).backward()
    for name, weight in masked.weights.items():
        torch.testing.assert_close(weight.grad, plain.model.get_parameter(name).grad)
        assert bool(weight.grad[~masked.masks[name]].any())
        weight.grad = None
    F.cross_entropy(masked.model(images), labels).backward()
    for name, weight in masked.weights.items():
        assert not bool(weight.grad[~masked.masks[name]].any())


def test_gradients_are_masked_again_when_the_context_fails():
    masked = pruned()
    with pytest.raises(ZeroDivisionError), masked.dense_gradients():
        1 / 0  # noqa: B018
    masked.model(batch()[0]).sum().backward()
    assert not bool(masked.weights[B].grad[~masked.masks[B]].any())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "allocation"), [("resnet18", "uniform"), ("test_resnet", "erk")])
def test_a_resnet_of_timm_is_masked_trained_and_baked(name, allocation):
    torch.manual_seed(0)
    # else the last norm of each block starts at zero and lets no gradient through
    model = create_model(name, num_classes=3, zero_init_last=False).requires_grad_(False)
    masked = masks.pruned(model, 0.1, allocation=allocation)
    masked.add_scores(masked.weights)
    assert masked.kept == pytest.approx(0.1 * masked.prunable, abs=len(masked.masks))
    images = torch.rand(2, 3, 32, 32)
    with masked.cached():
        with torch.no_grad():
            model(images)
        F.cross_entropy(model(images), torch.tensor([0, 2])).backward()
    assert all(grad is not None and bool(grad.any()) for grad in gradients(masked))
    model.eval()
    before = model(images)
    masked.bake()
    assert torch.equal(model(images), before)
