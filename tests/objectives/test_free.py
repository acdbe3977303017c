import pytest
import torch

from robustprune.objectives import create
from robustprune.types import Progress

from .toys import linear

EPS, STEP = 0.1, 0.06


def sign_of_the_gradient(model, labels):
    """∂CE/∂x of a two-class linear network is (p_other)·(w_other − w_label): its sign by hand."""
    weight = model[1].weight.detach()
    return torch.stack([(weight[1 - y] - weight[y]).sign() for y in labels.tolist()]).view(
        -1, 1, 2, 2
    )


def inner(n):
    """Images that the noise cannot push out of [0, 1]."""
    return 0.3 + 0.4 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(2))


def step(objective, model, images, labels):
    model.zero_grad()
    loss = objective(model, images, labels, Progress())
    loss.total.backward()
    objective.after_backward()
    return loss


def test_noise_by_hand_over_two_batches_and_a_smaller_last_one():
    model = linear()
    objective = create("free", eps=EPS, step_size=STEP)
    labels = [torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0])]
    noise = torch.zeros(4, 1, 2, 2)
    for target in labels:
        images, n = inner(len(target)), len(target)
        expected = torch.nn.functional.cross_entropy(model(images + noise[:n]), target)
        loss = step(objective, model, images, target)
        assert loss.total.item() == pytest.approx(expected.item(), abs=1e-6)
        noise[:n] = (noise[:n] + STEP * sign_of_the_gradient(model, target)).clamp(-EPS, EPS)
        assert torch.allclose(objective.state_dict()["noise"], noise, atol=1e-7)


def test_the_noise_grows_with_a_larger_batch_and_keeps_what_it_had():
    model = linear()
    objective = create("free", eps=EPS)
    step(objective, model, inner(2), torch.tensor([0, 1]))
    before = objective.state_dict()["noise"].clone()
    objective(model, inner(3), torch.tensor([0, 1, 1]), Progress())
    grown = objective.state_dict()["noise"]
    assert torch.equal(grown[:2], before)
    assert not grown[2].any()


def test_noise_that_leaves_the_pixel_range_is_clipped():
    model, labels = linear(), torch.tensor([0])
    objective = create("free", eps=EPS)
    objective.load_state_dict({"noise": torch.full((1, 1, 2, 2), EPS)})
    images = torch.full((1, 1, 2, 2), 1 - EPS / 2)
    expected = torch.nn.functional.cross_entropy(model(torch.ones(1, 1, 2, 2)), labels)
    loss = objective(model, images, labels, Progress())
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-6)


def test_noise_moves_saturated_pixels_inward():
    model, labels = linear(), torch.tensor([0])
    objective = create("free", eps=EPS)
    step(objective, model, torch.ones(1, 1, 2, 2), labels)
    inward = sign_of_the_gradient(model, labels) < 0
    assert inward.any()
    assert torch.allclose(objective.state_dict()["noise"][inward], torch.tensor(-EPS))


def test_the_step_is_eps_unless_stated():
    model, labels = linear(), torch.tensor([0, 1])
    objective = create("free", eps=EPS)
    step(objective, model, inner(2), labels)
    expected = EPS * sign_of_the_gradient(model, labels)
    assert torch.allclose(objective.state_dict()["noise"], expected)


def test_state_goes_round():
    model, labels = linear(), torch.tensor([0, 1, 1])
    objective = create("free", eps=EPS, step_size=STEP)
    step(objective, model, inner(3), labels)
    state = {key: value.clone() for key, value in objective.state_dict().items()}
    other = objective.fresh()
    assert other.state_dict() == {}
    other.load_state_dict(state)
    one, two = (step(each, model, inner(3), labels).total for each in (objective, other))
    assert torch.equal(one, two)
    assert torch.equal(objective.state_dict()["noise"], other.state_dict()["noise"])


def test_a_fresh_state_loads():
    objective = create("free")
    objective.load_state_dict({})
    assert objective.state_dict() == {}


def test_repeats():
    assert create("free").repeats == 4
    assert create("free", replays=7).repeats == 7
    assert create("pgd").repeats == 1
