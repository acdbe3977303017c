import pytest
import torch

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking.schedules import Every, cubic
from robustprune.masking.structures import Structure
from robustprune.objectives import Loss
from tests.pruners.nets import at_work, linear, progress

EVERY = {"steps": 2, "start": 0.0, "stop": 1.0}
WEIGHTS = [4.0, 3.0, 0.1, 2.0, 9.0, 8.0, 7.0, 6.0]
GRADIENTS = [0.0, 0.0, 0.3, 0.0, 0.1, 0.9, 0.2, 0.4]


def rewired(growth: str, *, step: int = 1, fraction: float = 0.5, momentum: float = 0.9):
    """RigL's step on 8 weights of which the first 4 are kept, with gradients given."""
    method, masked, (stage,) = at_work(
        "rigl", linear(WEIGHTS), 0.5, growth=growth, fraction=fraction, every=EVERY
    )
    masked.set({"1.weight": torch.tensor([[True] * 4 + [False] * 4])})
    (weight,) = masked.weights.values()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=momentum)
    optimizer.state[weight]["momentum_buffer"] = torch.ones_like(weight)
    dense = []

    def closure(*, again: bool = False) -> Loss:
        masked.model(torch.ones(1, 8)).sum().backward()
        dense.append(bool(weight.grad.all()))
        weight.grad = torch.tensor([GRADIENTS])
        return Loss(torch.tensor(0.0), torch.zeros(1, 1), {})

    method.step(stage, masked, closure, optimizer, progress(step))
    return masked, weight, optimizer, dense


def test_rigl_drops_the_smallest_and_grows_where_gradients_are_largest():
    # half of 4, at the cosine's first hundredth: int(0.4999 * 4) = 1; 0.1 goes, 0.9's place grows
    masked, weight, optimizer, dense = rewired("gradient")
    assert masked.masks["1.weight"].tolist() == [
        [True, True, False, True, False, True, False, False]
    ]
    assert dense == [True]
    assert weight.tolist() == [pytest.approx([4.0, 3.0, 0.1, 2.0, 9.0, 0.0, 7.0, 6.0])]
    momentum = optimizer.state[weight]["momentum_buffer"]
    assert momentum.tolist() == [[1.0] * 5 + [0.0] + [1.0] * 2]


def test_a_step_that_moves_connections_moves_no_weight_and_the_others_are_ordinary():
    _, weight, _, dense = rewired("gradient", step=0)
    assert dense == [False]
    assert weight[0, 2].item() == pytest.approx(0.1 - 0.1 * (0.9 + 0.3))


def test_a_dropped_weight_may_come_straight_back_and_keeps_its_value():
    GRADIENTS[2] = 2.0
    try:
        masked, weight, optimizer, _ = rewired("gradient")
    finally:
        GRADIENTS[2] = 0.3
    assert masked.masks["1.weight"].tolist() == [[True] * 4 + [False] * 4]
    assert weight[0, 2].item() == pytest.approx(0.1)
    assert optimizer.state[weight]["momentum_buffer"].sum() == 8


def test_set_grows_at_random_and_keeps_the_number():
    grown = set()
    for fraction in (0.3, 0.5, 0.9):
        masked, _, _, _ = rewired("random", fraction=fraction)
        mask = masked.masks["1.weight"]
        assert int(mask.sum()) == 4
        grown |= set(mask[0].nonzero().flatten().tolist())
    assert len(grown) > 4


def test_the_number_that_moves_falls_along_half_a_cosine():
    every = Every(steps=1, start=0.0, stop=0.5)
    assert every.done(progress(25)) == 0.5
    assert every.done(progress(80)) == 1.0
    assert [every.due(progress(step)) for step in (0, 49, 50)] == [True, True, False]
    assert [Every(steps=3).due(progress(s)) for s in range(6)] == [False, False, True] * 2


def test_the_cubic_ramp_by_hand():
    assert cubic(1.0, 0.1, 0.0) == 1.0
    assert cubic(1.0, 0.1, 0.5) == pytest.approx(0.1 + 0.9 / 8)
    assert cubic(1.0, 0.1, 1.0) == pytest.approx(0.1)


def test_the_first_mask_is_random_and_exact():
    torch.manual_seed(0)
    method, masked, (stage,) = at_work("rigl", linear([1.0] * 10, [2.0] * 10), 0.3)
    state = torch.get_rng_state()
    method.begin(stage, masked)
    assert masked.kept == 6
    assert torch.equal(torch.get_rng_state(), state)


class Other(Structure):
    registered_name = "other"


def test_other_structures_are_refused():
    with pytest.raises(UsageError, match="use 'weight'"):
        pruners.create("rigl", structure=Other())
