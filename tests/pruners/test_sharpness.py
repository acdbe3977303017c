"""One pass at p, one at the worst small move of it: by hand on a linear network."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune import pruners
from robustprune.masking import MaskedModel, attach
from robustprune.objectives import Loss
from robustprune.pruners import Method, Pruner, Stage, sharpened
from tests.pruners.nets import context, sections

X = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.5, 1.0, -1.0, 2.0], [-1.0, 0.3, 2.0, 0.1]])
Y = torch.tensor([0, 1, 1])
WEIGHT = torch.tensor([[0.6, -0.4, 0.5, 0.1], [-0.3, 0.45, 0.2, -0.7]])
BIAS = torch.tensor([0.1, -0.2])
RADIUS = 0.9


def linear(pruner: Pruner, stage: str) -> tuple[MaskedModel, Method, Stage]:
    layer = nn.Linear(4, 2)
    layer.load_state_dict({"weight": WEIGHT, "bias": BIAS})
    masked = attach(layer)
    method = pruner.method(context(pruner, 0.5))
    (found,) = (s for s in pruner.stages(0.5, sections()) if s.name == stage)
    method.prepare(found, masked)
    method.begin(found, masked)
    groups = method.param_groups(found, masked)
    layer.requires_grad_(False)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return masked, method, found


def by_hand(weight: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy to the weight that is multiplied by."""
    p = F.softmax(X @ weight.T + BIAS, dim=1)
    return (p - F.one_hot(Y, 2)).T @ X / len(X)


def largest(importance: Tensor, kept: int) -> Tensor:
    mask = torch.zeros(importance.numel(), dtype=torch.bool)
    mask[importance.flatten().argsort(descending=True)[:kept]] = True
    return mask.view(importance.shape)


class Passes:
    """The loop's closure, which notes how it was called and what stood there."""

    def __init__(self, masked: MaskedModel, *, fails: int | None = None) -> None:
        self.masked, self.fails = masked, fails
        self.again: list[bool] = []
        self.masks: list[Tensor] = []

    def __call__(self, *, again: bool = False) -> Loss:
        self.again.append(again)
        self.masks.append(self.masked.masks["weight"].clone())
        self.masked.model.zero_grad()
        with self.masked.cached():
            logits = self.masked.model(X)
            total = F.cross_entropy(logits, Y)
            total.backward()
        if len(self.again) == self.fails:
            raise ArithmeticError
        return Loss(total.detach(), logits.detach(), {})


def test_s2ap_takes_the_scores_gradient_at_their_worst_move_under_the_mask_there():
    masked, method, stage = linear(pruners.create("hydra", scores="magnitude"), "prune")
    scores, mask = masked.scores["weight"], masked.masks["weight"]
    assert torch.equal(scores, WEIGHT)
    gradient = by_hand(torch.where(mask, WEIGHT, 0.0)) * WEIGHT * WEIGHT.sign()
    moved = WEIGHT + RADIUS * WEIGHT.norm() * gradient / gradient.norm()
    its_mask = largest(moved.abs(), 4)
    assert not torch.equal(its_mask, mask), "or the test says nothing about the mask"
    expected = by_hand(torch.where(its_mask, WEIGHT, 0.0)) * WEIGHT * moved.sign()
    passes = Passes(masked)
    loss = sharpened(passes, method=method, stage=stage, masked=masked, radius=RADIUS)()
    torch.testing.assert_close(scores.grad, expected)
    assert passes.again == [False, True]
    assert torch.equal(passes.masks[1], its_mask)
    plain = F.cross_entropy(X @ torch.where(mask, WEIGHT, 0.0).T + BIAS, Y)
    torch.testing.assert_close(loss.total, plain)
    assert torch.equal(scores, WEIGHT)
    assert torch.equal(masked.masks["weight"], mask)
    assert masked.turnover == 0


def test_awp_moves_kept_weights_by_their_own_norm_and_no_bias():
    masked, method, stage = linear(pruners.create("magnitude"), "finetune")
    mask, weight = masked.masks["weight"], masked.weights["weight"]
    kept = torch.where(mask, WEIGHT, 0.0)
    gradient = torch.where(mask, by_hand(kept), 0.0)
    moved = kept + RADIUS * kept.norm() * gradient / gradient.norm()
    expected = torch.where(mask, by_hand(moved), 0.0)
    passes = Passes(masked)
    sharpened(passes, method=method, stage=stage, masked=masked, radius=RADIUS)()
    torch.testing.assert_close(weight.grad, expected)
    residual = F.softmax(X @ moved.T + BIAS, dim=1) - F.one_hot(Y, 2)
    torch.testing.assert_close(masked.model.bias.grad, residual.mean(0))
    assert torch.equal(weight, WEIGHT)
    assert torch.equal(masked.model.bias, BIAS)


def test_kept_weights_alone_move_though_pruned_ones_have_gradients():
    masked, method, stage = linear(pruners.create("magnitude"), "finetune")
    found = []
    for dense in (False, True):
        passes = Passes(masked)
        closure = sharpened(passes, method=method, stage=stage, masked=masked, radius=RADIUS)
        with masked.dense_gradients() if dense else nullcontext():
            closure()
        found.append(masked.weights["weight"].grad.clone())
    one, other = found
    mask = masked.masks["weight"]
    torch.testing.assert_close(one[mask], other[mask])
    assert bool(other[~mask].all())


@pytest.mark.parametrize("fails", [1, 2])
@pytest.mark.parametrize(("name", "stage"), [("hydra", "prune"), ("magnitude", "finetune")])
def test_everything_is_put_back_when_a_pass_fails(name, stage, fails):
    masked, method, its_stage = linear(pruners.create(name), stage)
    before = {n: tensor.clone() for n, tensor in masked.model.state_dict().items()}
    passes = Passes(masked, fails=fails)
    closure = sharpened(passes, method=method, stage=its_stage, masked=masked, radius=RADIUS)
    with pytest.raises(ArithmeticError):
        closure()
    assert len(passes.again) == fails
    after = masked.model.state_dict()
    assert all(torch.equal(after[n], tensor) for n, tensor in before.items())


def test_a_gradient_of_zeros_moves_nothing():
    masked, method, stage = linear(pruners.create("hydra"), "prune")
    masked.weights["weight"].data.zero_()
    closure = sharpened(Passes(masked), method=method, stage=stage, masked=masked, radius=RADIUS)
    closure()
    assert torch.equal(masked.scores["weight"].grad, torch.zeros(2, 4))


def test_moves_are_no_first_mask_of_a_network():
    """Turnover is counted from the first mask that a method sets by itself."""
    layer = nn.Linear(4, 2)
    masked = attach(layer)
    closure = sharpened(
        Passes(masked), method=Method(), stage=Stage("train", None), masked=masked, radius=RADIUS
    )
    closure()
    assert masked.initial is None
