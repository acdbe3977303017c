import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from robustprune.masking import allocations, attach, masked, prunable_layers
from robustprune.models import create_model
from tests.masking.nets import batch, counting, frozen, gradients, learning, network


def test_prunable_are_convolutions_and_linear_layers():
    assert list(prunable_layers(network())) == ["0", "4"]


def test_every_layer_keeps_its_share_and_the_network_computes_with_it():
    model = network()
    dense = copy.deepcopy(model)
    whole = attach(model, density=0.25)
    assert [(r.name, r.shape, r.kept, r.total, r.density) for r in whole.report()] == [
        ("0", (2, 2, 3, 3), 9, 36, 0.25),
        ("4", (3, 12), 9, 36, 0.25),
    ]
    assert (whole.kept, whole.prunable, whole.turnover) == (18, 72, 0.0)
    for name, layer in prunable_layers(dense).items():
        threshold = layer.weight.abs().flatten().sort().values[-9]
        expected = torch.where(layer.weight.abs() >= threshold, layer.weight, 0.0)
        layer.weight.data = expected.data
        assert torch.equal(model.get_submodule(name).weight, expected)
    images, _ = batch()
    assert torch.equal(model(images), dense(images))


def test_density_one_changes_nothing():
    model = network()
    images, _ = batch()
    before = copy.deepcopy(model)(images)
    whole = attach(model, density=1.0)
    assert whole.kept == whole.prunable
    assert torch.equal(model(images), before)


def test_channels_last_networks_get_the_same_masks():
    usual, turned = network(), network().to(memory_format=torch.channels_last)
    one, other = attach(usual, density=0.3), attach(turned, density=0.3)
    for name in one.masks:
        assert torch.equal(one.masks[name].mask, other.masks[name].mask)
    assert other.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(one.bake()["0.weight"], other.bake()["0.weight"])


def test_an_all_zero_layer_is_masked_and_has_no_nan():
    model = network()
    nn.init.zeros_(model[4].weight)
    whole = attach(model, density=0.1)
    assert whole.masks["4"].kept == 4
    assert bool(model(batch()[0]).isfinite().all())


def test_an_allocation_is_used_by_name_or_as_it_is():
    by_name = attach(network(), density=0.1, allocation="global")
    as_it_is = attach(network(), density=0.1, allocation=allocations.create("global"))
    assert by_name.kept == as_it_is.kept == 7
    assert by_name.report() == as_it_is.report()


def test_masked_weights_are_computed_once_a_step_and_anew_in_the_next():
    whole = learning()
    calls = counting(whole)
    images, labels = batch()
    for step in (1, 2):
        with whole.materialised():
            losses = [F.cross_entropy(whole.model(images), labels) for _ in range(4)]
            sum(losses).backward()
        assert calls == {"0": step, "4": step}
        assert not parametrize._cache


def test_masks_are_renewed_once_a_step_while_scores_are_trainable(monkeypatch):
    whole = learning()
    selections: list[int] = []
    keep = masked.keep_largest
    monkeypatch.setattr(masked, "keep_largest", lambda s, k: selections.append(k) or keep(s, k))
    with whole.materialised():
        whole.model(batch()[0])
        whole.model(batch()[0])
    assert selections == [9, 9]
    for scores in whole.score_parameters():
        scores.requires_grad_(False)
    with whole.materialised():
        whole.model(batch()[0])
    assert selections == [9, 9]


def test_outside_a_step_the_network_computes_with_the_current_weights():
    whole = attach(network(), density=0.25)
    images, _ = batch()
    with whole.materialised():
        whole.model(images)
    before = whole.model(images)
    whole.model[4].parametrizations.weight.original.data.mul_(2)
    assert not torch.equal(whole.model(images), before)


def test_a_forward_without_gradients_first_does_not_cut_the_scores_off():
    plain, after = learning(), learning()
    images, labels = batch()
    with plain.materialised():
        F.cross_entropy(plain.model(images), labels).backward()
    with after.materialised():
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
    with plain.materialised():
        F.cross_entropy(plain.model(images), labels).backward()
    with attacked.materialised():
        for _ in range(3):
            x = images.clone().requires_grad_()
            loss = F.cross_entropy(attacked.model(x), labels)
            (gradient,) = torch.autograd.grad(loss, [x])
            assert bool(gradient.any())
        F.cross_entropy(attacked.model(images), labels).backward()
    for one, other in zip(gradients(plain), gradients(attacked), strict=True):
        assert torch.equal(one, other)


def test_the_step_computed_once_has_the_gradients_of_the_one_that_is_not():
    cached, recomputed = attach(network(), density=0.25), attach(network(), density=0.25)
    images, labels = batch()
    with cached.materialised():
        F.cross_entropy(cached.model(images), labels).backward()
    F.cross_entropy(recomputed.model(images), labels).backward()
    pairs = zip(cached.model.parameters(), recomputed.model.parameters(), strict=True)
    for one, other in pairs:
        assert torch.equal(one.grad, other.grad)


def test_in_finetuning_the_mask_stays_though_the_scores_move():
    whole = attach(network(), density=0.25)
    before = [mask.mask.clone() for mask in whole.masks.values()]
    for scores in whole.score_parameters():
        scores.requires_grad_(False).copy_(torch.rand_like(scores))
    with whole.materialised():
        whole.model(batch()[0])
    for mask, was in zip(whole.masks.values(), before, strict=True):
        assert torch.equal(mask.mask, was)


def test_turnover_by_hand():
    whole = learning()
    scores = whole.masks["4"].scores
    kept = whole.masks["4"].mask.flatten().nonzero().squeeze(1)
    pruned = (~whole.masks["4"].mask).flatten().nonzero().squeeze(1)
    with torch.no_grad():
        scores.view(-1)[pruned[:3]] = -100.0  # magnitude decides, whatever the sign
    with whole.materialised():
        pass
    assert whole.turnover == 3 / 18
    assert bool(whole.masks["4"].mask.flatten()[pruned[:3]].all())
    assert int(whole.masks["4"].mask.flatten()[kept].sum()) == 6
    assert whole.kept == 18


def test_global_shares_move_with_the_scores():
    whole = attach(frozen(network()), density=0.25, allocation="global")
    with torch.no_grad():
        whole.masks["0"].scores.mul_(1000)
    whole.select()
    assert [mask.kept for mask in whole.masks.values()] == [17, 1]
    assert whole.kept == 18


def test_the_state_dict_brings_masks_scores_and_turnover_back():
    whole = learning()
    with torch.no_grad():
        whole.masks["0"].scores.neg_().reciprocal_()
    whole.select()
    other = learning()
    other.model.load_state_dict(whole.model.state_dict())
    assert other.turnover == whole.turnover > 0
    for name in whole.masks:
        assert torch.equal(other.masks[name].mask, whole.masks[name].mask)


@pytest.mark.parametrize(("name", "allocation"), [("resnet18", "uniform"), ("test_resnet", "erk")])
def test_a_resnet_of_timm_is_masked_trained_and_baked(name, allocation):
    torch.manual_seed(0)
    # else the last norm of each block starts at zero and lets no gradient through
    model = frozen(create_model(name, num_classes=3, zero_init_last=False))
    whole = attach(model, density=0.1, allocation=allocation)
    assert whole.kept == pytest.approx(0.1 * whole.prunable, abs=len(whole.masks))
    images = torch.rand(2, 3, 32, 32)
    with whole.materialised():
        with torch.no_grad():
            model(images)
        F.cross_entropy(model(images), torch.tensor([0, 2])).backward()
    assert all(grad is not None and bool(grad.any()) for grad in gradients(whole))
    model.eval()
    before = model(images)
    whole.bake()
    assert torch.equal(model(images), before)
