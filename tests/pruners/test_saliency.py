import torch
from torch import nn
from torch.nn import functional as F

from robustprune.types import Images
from tests.pruners.nets import at_work, linear

BATCH = Images(torch.tensor([[[[1.0, 2.0]]], [[[3.0, 0.0]]]]), torch.tensor([0, 1]))


def with_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 2))


def test_snip_keeps_the_largest_products_of_gradient_and_weight():
    # logits of the first image are (1, 1), so its p is (1/2, 1/2); those of the second (3, -3), so
    # the gradient is a half of (-1/2, 1/2) ⊗ (1, 2) plus a half of (p, -p) ⊗ (3, 0), p nearly 1:
    # |g·w| is about (1.25, 0, 1.25, 0.5) but for what 1 - p leaves
    method, masked, (stage,) = at_work(
        "snip", linear([1.0, 0.0], [-1.0, 1.0]), 0.5, images=BATCH, fresh=False
    )
    method.begin(stage, masked)
    assert masked.masks["1.weight"].tolist() == [[True, False], [True, False]]


def test_snips_gradients_are_those_of_the_loss():
    model = linear([0.3, -0.2], [0.1, 0.4], [0.5, 0.2])
    method, masked, (stage,) = at_work("snip", model, 0.5, images=BATCH, fresh=False)
    weight = model[1].parametrizations.weight.original.detach().clone().requires_grad_()
    F.cross_entropy(BATCH.images.flatten(1) @ weight.T, BATCH.labels).backward()
    (gradient,) = method.gradients(stage, masked).values()
    torch.testing.assert_close(gradient, weight.grad)


def test_snip_trains_another_initialisation_than_the_one_it_scored():
    fresh = {"1.weight": torch.tensor([[5.0, 6.0], [7.0, 8.0]])}
    method, masked, (stage,) = at_work(
        "snip", linear([1.0, 0.0], [-1.0, 1.0]), 0.5, images=BATCH, checkpoints={"fresh": fresh}
    )
    assert method.pruner.needs() == ("init", "fresh")
    method.begin(stage, masked)
    assert masked.model[1].weight.tolist() == [[5.0, 0.0], [7.0, 0.0]]


def test_scoring_draws_from_the_methods_generator_only_and_leaves_modes_and_statistics():
    model = with_norm()
    method, masked, (stage,) = at_work(
        "snip", model, 0.5, images=BATCH, fresh=False, objective="pgd"
    )
    state, mean = torch.get_rng_state(), model[1].running_mean.clone()
    scored = method.gradients(stage, masked)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model[1].running_mean, mean)
    assert model.training
    torch.manual_seed(5)
    again, masked, _ = at_work("snip", with_norm(), 0.5, images=BATCH, fresh=False, objective="pgd")
    assert torch.equal(again.gradients(stage, masked)["3.weight"], scored["3.weight"])


def test_snip_trains_as_pretrain_says_but_for_its_own_options():
    _, _, (stage,) = at_work("snip", linear([1.0]), 1.0, fresh=False, train={"epochs": 9})
    assert (stage.name, stage.options.epochs, stage.options.optimizer.lr) == ("train", 9, 0.1)
