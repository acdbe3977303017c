from types import SimpleNamespace

import pytest
import torch

from robustprune.masking.masked import Mask, _MaskedWeight

WEIGHT = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])
SCORES = torch.tensor([[0.5, -0.5, 2.0], [-1.0, 0.0, 3.0]])
MASK = torch.tensor([[True, False, True], [False, False, True]])
GRAD = torch.tensor([[7.0, 11.0, -13.0], [17.0, 19.0, 23.0]])


def layer(*, scores: bool = True) -> Mask:
    masked = Mask(WEIGHT)
    masked.mask = MASK.clone()
    if scores:
        masked.scores = torch.nn.Parameter(SCORES.clone())
    return masked


def test_a_new_one_keeps_everything_and_has_no_scores():
    assert torch.equal(Mask(WEIGHT)(WEIGHT), WEIGHT)
    assert list(Mask(WEIGHT).state_dict()) == ["mask"]
    assert not list(Mask(WEIGHT).parameters())


def test_kept_weights_pass_and_the_others_are_zero():
    expected = [[1.0, 0.0, 3.0], [0.0, 0.0, -6.0]]
    assert layer()(WEIGHT).tolist() == expected


def test_pruned_entries_are_plus_zero():
    shown = layer()(-WEIGHT.abs())
    assert not bool(shown[~MASK].signbit().any())
    assert bool(shown[MASK].signbit().all())


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_stands_in_a_pruned_entry_does_not_matter(bad):
    assert layer()(torch.where(MASK, WEIGHT, bad)).tolist() == layer()(WEIGHT).tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_type_is_the_weights(dtype):
    assert layer()(WEIGHT.to(dtype)).dtype == dtype


def test_the_gradient_to_every_score_is_that_of_the_output_times_weight_times_sign():
    masked = layer()
    (masked(WEIGHT) * GRAD).sum().backward()
    # g · w · sign(s), pruned entries too: that is how they can come back
    expected = [[7.0, 22.0, -39.0], [68.0, 0.0, -138.0]]
    assert masked.scores.grad is not None
    assert masked.scores.grad.tolist() == expected


@pytest.mark.parametrize("scores", [True, False])
def test_the_gradient_to_the_weight_is_masked_or_dense(scores):
    weight = WEIGHT.clone().requires_grad_()
    masked = layer(scores=scores)
    (masked(weight) * GRAD).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[7.0, 0.0, -13.0], [0.0, 0.0, 23.0]]
    weight.grad, masked.dense = None, True
    (masked(weight) * GRAD).sum().backward()
    assert torch.equal(weight.grad, GRAD)


def test_frozen_tensors_get_no_gradient():
    masked, weight = layer(), WEIGHT.clone().requires_grad_()
    masked.scores.requires_grad_(False)
    masked(weight).sum().backward()
    assert masked.scores.grad is None
    assert weight.grad is not None
    masked.scores.requires_grad_(True)
    frozen = WEIGHT.clone()
    masked(frozen).sum().backward()
    assert frozen.grad is None
    assert masked.scores.grad is not None


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_gradients_nobody_asked_for_are_not_computed(needs):
    ctx = SimpleNamespace(
        saved_tensors=(WEIGHT, SCORES, MASK), needs_input_grad=(*needs, False), dense=False
    )
    grads = _MaskedWeight.backward(ctx, GRAD)
    assert tuple(grad is not None for grad in grads) == (*needs, False, False)
