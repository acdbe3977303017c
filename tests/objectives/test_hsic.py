import math

import pytest
import torch
from torch import nn

from robustprune.masking import attach
from robustprune.objectives import create
from robustprune.objectives.hsic import gaussian, response, with_hidden
from robustprune.types import Progress

from .toys import batch, network


def hsic(one, other):
    """Ours, of two kernels."""
    return (response(one) * response(other).T).sum()


def rows(n=6, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_kernel_by_hand():
    kernel = gaussian(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), width=5.0)
    expected = math.exp(-25 / (2 * 25 * 2))
    torch.testing.assert_close(kernel, torch.tensor([[1, expected], [expected, 1]]).double())


def test_hsic_is_the_trace_of_the_definition():
    """With kernels centred on one side and an explicit inverse, as the source has it."""
    n = 6
    k, l = gaussian(rows(seed=1), 5.0), rows(seed=2) @ rows(seed=2).T  # noqa: E741
    centring = torch.eye(n).double() - 1 / n
    ridge = 1e-5 * n * torch.eye(n).double()
    sides = [kernel @ centring @ torch.inverse(kernel @ centring + ridge) for kernel in (k, l)]
    expected = torch.trace(sides[0] @ sides[1])
    assert expected > 0.5
    torch.testing.assert_close(hsic(k, l), expected, rtol=1e-8, atol=1e-10)


def test_hsic_of_two_images_in_closed_form():
    """HKH of [[1, r], [r, 1]] has one eigenvalue that is not 0: 1 − r, and R has v/(v + 2ε)."""
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    values = [1 - math.exp(-((2 / 5) ** 2) / 2), 1 - math.exp(-((4 / 5) ** 2) / 2)]
    expected = math.prod(value / (value + 2e-5) for value in values)
    assert hsic(gaussian(x, 5.0), gaussian(y, 5.0)).item() == pytest.approx(expected)


def test_what_is_constant_depends_on_nothing():
    constant = gaussian(torch.full((6, 3), 0.7), 5.0)
    assert hsic(constant, gaussian(rows(), 5.0)).item() == pytest.approx(0, abs=1e-3)
    assert hsic(torch.ones(6, 6).double(), gaussian(rows(), 5.0)).item() == pytest.approx(0)


def test_dependence_is_more_than_independence():
    x = rows(n=40, d=1, seed=1)
    itself = hsic(gaussian(x, 0.5), gaussian(x**2 + x, 0.5))
    another = hsic(gaussian(x, 0.5), gaussian(rows(n=40, d=1, seed=2), 0.5))
    assert itself > 1.5 * another


def teacher():
    model = network().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1)
    return model


def bound(**options):
    objective = create("pwoa", **options)
    objective.bind({"dense": teacher()})
    return objective


def test_the_distillation_by_hand():
    """10·T²/K·Σ p·(log p − log q), p the teacher's, of logits divided by T."""
    model, (images, labels) = network(), batch()
    objective = bound(temperature=3.0, lambda_x=0, lambda_y=0)
    loss = objective(model, images, labels, Progress())
    p = (teacher()(images) / 3).exp()
    q = (network()(images) / 3).exp()
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    kl = (p * (p.log() - q.log())).sum() / len(images)
    assert kl > 1e-3
    assert loss.total.item() == pytest.approx(10 * 9 * kl.item() / 5, rel=1e-3)
    assert loss.parts["distillation"].item() == pytest.approx(9 * kl.item() / 5, rel=1e-3)
    assert set(loss.parts) == {"distillation"}


def test_the_teacher_itself_has_nothing_to_learn():
    images, labels = batch()
    loss = bound(lambda_x=0, lambda_y=0)(teacher(), images, labels, Progress())
    assert loss.total.item() == pytest.approx(0, abs=1e-6)


def test_the_bottleneck_by_hand():
    """Of a network with one hidden layer: what its last layer gets."""
    model, (images, labels) = network(), batch()
    objective = bound(alpha=0, lambda_x=0.2, lambda_y=0.7, width=2.0)
    loss = objective(model, images, labels, Progress())
    hidden = network()[:5](images)
    onehot = nn.functional.one_hot(labels, 5).double()
    x = hsic(gaussian(hidden, 2.0), gaussian(images, 2.0)).item()
    y = hsic(gaussian(hidden, 2.0), onehot @ onehot.T).item()
    assert loss.total.item() == pytest.approx(0.2 * x - 0.7 * y, rel=1e-4)
    assert loss.parts["hsic_images"].item() == pytest.approx(x, rel=1e-4)
    assert loss.parts["hsic_labels"].item() == pytest.approx(y, rel=1e-4)
    loss.total.backward()
    assert model[0].weight.grad.any()
    assert not model[5].weight.grad.any()  # it comes after what is looked at


def test_cross_entropy_can_be_added():
    model, (images, labels) = network(), batch()
    loss = bound(alpha=0, lambda_x=0, lambda_y=0, ce=2.0)(model, images, labels, Progress())
    expected = 2 * nn.functional.cross_entropy(network()(images), labels)
    torch.testing.assert_close(loss.total, expected)


def test_no_image_is_attacked_and_the_teacher_learns_nothing():
    model, (images, labels) = network(), batch()
    objective, seen = bound(), {"network": 0, "teacher": 0}

    def count(name):
        def hook(module, inputs):
            seen[name] += 1
            assert torch.equal(inputs[0], images)
            assert not inputs[0].requires_grad

        return hook

    model.register_forward_pre_hook(count("network"))
    objective.networks["dense"].register_forward_pre_hook(count("teacher"))
    assert objective.attack(model, images, labels, Progress()) is None
    objective(model, images, labels, Progress()).total.backward()
    assert seen == {"network": 1, "teacher": 1}
    assert all(p.grad is None for p in objective.networks["dense"].parameters())


@pytest.mark.parametrize("training", [True, False])
def test_hidden_layers_are_what_layers_get_behind_the_first(training):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).train(training)
    images, _ = batch()
    logits, hidden = with_hidden(model, images)
    torch.testing.assert_close(logits, model(images))
    assert [tuple(one.shape) for one in hidden] == [(6, 4, 4, 4), (6, 16)]
    assert all(bool((one >= 0).all()) for one in hidden[:1])  # behind the ReLU
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hooks_are_gone_after_an_error_too():
    model = network()
    with pytest.raises(RuntimeError):
        with_hidden(model, torch.rand(2, 1, 6, 6))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_masked_layers_are_hidden_layers_as_well():
    masked, (images, _) = attach(network()), batch()
    with masked.cached():
        assert len(with_hidden(masked.model, images)[1]) == 1
