import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune.objectives import create
from robustprune.types import Progress

from .toys import batch, network


class Scripted(nn.Module):
    """Answers with the next of the given logits, whatever it is shown."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.inputs = [torch.tensor(a, requires_grad=True) for a in answers], []

    def forward(self, images):
        self.inputs.append(images)
        return self.answers[len(self.inputs) - 1]


def test_total_by_hand():
    """With p = (3/4, 1/4) on the clean image, q = (1/2, 1/2) on the noisy one, label 1."""
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([1])
    model = Scripted([[math.log(3), 0.0]], [[0.0, 0.0]])
    loss = create("stability", beta=2)(model, images, labels, Progress())
    natural = math.log(4)
    robust = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert loss.parts["natural"].item() == pytest.approx(natural, rel=1e-6)
    assert loss.parts["robust"].item() == pytest.approx(robust, rel=1e-6)
    assert loss.total.item() == pytest.approx(natural + 2 * robust, rel=1e-6)
    assert torch.equal(model.inputs[0], images)
    assert torch.equal(loss.logits, model.answers[0])


def test_gradients_go_through_both_predictions():
    """∂KL(p‖q)/∂(logits of q) = q − p; of p: p·(log p/q − KL)."""
    p, q = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    model = Scripted([[math.log(3), 0.0]], [[0.0, 0.0]])
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([1])
    create("stability", beta=2)(model, images, labels, Progress()).total.backward()
    kl = (p * (p / q).log()).sum()
    natural = p - torch.tensor([0.0, 1.0])
    assert torch.allclose(model.answers[0].grad[0], natural + 2 * p * ((p / q).log() - kl))
    assert torch.allclose(model.answers[1].grad[0], 2 * (q - p))


def test_the_noise_has_the_stated_deviation_and_is_not_clipped():
    torch.manual_seed(0)
    images, labels = torch.rand(50, 3, 20, 20), torch.arange(50) % 2
    model = Scripted([[0.0, 0.0]] * 50, [[0.0, 0.0]] * 50)
    create("stability", sigma=0.5)(model, images, labels, Progress())
    clean, noisy = model.inputs
    assert torch.equal(clean, images)
    assert (noisy - images).std().item() == pytest.approx(0.5, rel=0.02)
    assert noisy.min() < -0.5
    assert noisy.max() > 1.5


def test_no_noise_leaves_cross_entropy():
    images, labels = batch()
    loss = create("stability", sigma=0)(network(), images, labels, Progress())
    expected = F.cross_entropy(network()(images), labels)
    assert loss.parts["robust"].item() == pytest.approx(0, abs=1e-6)
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-5)


def test_certain_predictions_give_finite_losses_and_gradients():
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    model = Scripted([[1e4, 0.0], [1e4, 0.0]], [[0.0, 1e3], [1e3, 0.0]])
    loss = create("stability")(model, images, labels, Progress())
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(answer.grad.isfinite().all() for answer in model.answers)


def test_the_norm_layers_see_one_clean_and_one_noisy_batch():
    images, labels = batch()
    model = network()
    create("stability")(model, images, labels, Progress())
    assert model[1].num_batches_tracked == 2
