import math

import pytest
import torch

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import allocations
from robustprune.masking.schedules import Every, cubic
from robustprune.masking.structures import Structure
from robustprune.objectives import Loss
from robustprune.pruners import sharpened
from robustprune.recipe import inconsistencies
from tests.pipeline import tiny
from tests.pruners.nets import at_work, linear, network, progress

EVERY = {"steps": 2, "start": 0.0, "stop": 1.0}
WEIGHTS = [4.0, 3.0, 0.1, 2.0, 9.0, 8.0, 7.0, 6.0]
GRADIENTS = [0.0, 0.0, 0.3, 0.0, 0.1, 0.9, 0.2, 0.4]


def rewired(name: str, *, step: int = 1, fraction: float = 0.5, momentum: float = 0.9, **options):
    """A step on 8 weights of which the first 4 are kept, with gradients given."""
    method, masked, (stage, *_) = at_work(
        name, linear(WEIGHTS), 0.5, fraction=fraction, every=EVERY, **options
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
    masked, weight, optimizer, dense = rewired("rigl")
    assert masked.masks["1.weight"].tolist() == [
        [True, True, False, True, False, True, False, False]
    ]
    assert dense == [True]
    assert weight.tolist() == [pytest.approx([4.0, 3.0, 0.1, 2.0, 9.0, 0.0, 7.0, 6.0])]
    momentum = optimizer.state[weight]["momentum_buffer"]
    assert momentum.tolist() == [[1.0] * 5 + [0.0] + [1.0] * 2]


def test_a_step_that_moves_connections_moves_no_weight_and_the_others_are_ordinary():
    _, weight, _, dense = rewired("rigl", step=0)
    assert dense == [False]
    assert weight[0, 2].item() == pytest.approx(0.1 - 0.1 * (0.9 + 0.3))


def test_a_dropped_weight_may_come_straight_back_and_keeps_its_value():
    GRADIENTS[2] = 2.0
    try:
        masked, weight, optimizer, _ = rewired("rigl")
    finally:
        GRADIENTS[2] = 0.3
    assert masked.masks["1.weight"].tolist() == [[True] * 4 + [False] * 4]
    assert weight[0, 2].item() == pytest.approx(0.1)
    assert optimizer.state[weight]["momentum_buffer"].sum() == 8


@pytest.mark.parametrize("name", ["set", "flyingbird"])
@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_weights_of_set_and_flyingbird_move_before_connections_do(name, growth):
    # a rate of 0.1 and a momentum of 1: 0.1 − 0.1·(0.9 + 0.3) = −0.02 is the smallest, and goes
    masked, weight, optimizer, dense = rewired(name, growth=growth)
    mask = masked.masks["1.weight"]
    stays = torch.tensor([[True, True, False, True, False, False, False, False]])
    moved = torch.tensor([WEIGHTS]) - 0.1 * (0.9 + torch.tensor([GRADIENTS]))
    assert dense == [growth == "gradient"]
    assert bool((mask & stays).sum() >= (3 if name == "set" else 2))
    assert torch.allclose(weight[mask & stays], moved[mask & stays])
    grown = mask & ~torch.tensor([[True] * 4 + [False] * 4])
    assert bool((weight[grown] == 0).all())
    assert bool((optimizer.state[weight]["momentum_buffer"][grown] == 0).all())


def test_set_grows_at_random_and_keeps_the_number():
    grown = set()
    for fraction in (0.3, 0.5, 0.9):
        masked, _, _, _ = rewired("set", fraction=fraction)
        mask = masked.masks["1.weight"]
        assert int(mask.sum()) == 4
        grown |= set(mask[0].nonzero().flatten().tolist())
    assert len(grown) > 4


def test_rigls_share_falls_from_its_first_to_its_last_until_changes_stop():
    rigl = pruners.create("rigl", fraction=0.4, final_fraction=0.1, every={"stop": 0.5})
    shares = [rigl.dropped(progress(step)) for step in (0, 10, 25, 50, 80)]
    falling = 0.1 + 0.3 * (1 + math.cos(math.pi / 5)) / 2
    assert shares == pytest.approx([0.4, falling, 0.25, 0.1, 0.1])


def test_changes_are_due_at_regular_steps_until_they_stop():
    every = Every(steps=1, start=0.0, stop=0.5)
    assert every.done(progress(25)) == 0.5
    assert every.done(progress(80)) == 1.0
    assert [every.due(progress(step)) for step in (0, 49, 50)] == [True, True, False]
    assert [Every(steps=3).due(progress(s)) for s in range(6)] == [False, False, True] * 2


def test_the_cubic_ramp_by_hand():
    assert cubic(1.0, 0.1, 0.0) == 1.0
    assert cubic(1.0, 0.1, 0.5) == pytest.approx(0.1 + 0.9 / 8)
    assert cubic(1.0, 0.1, 1.0) == pytest.approx(0.1)


def test_equal_weights_are_dropped_at_random():
    method, masked, (stage,) = at_work("rigl", linear([1.0] * 200), 0.5, every={"steps": 1})
    masked.set({"1.weight": torch.tensor([[True] * 100 + [False] * 100])})
    (weight,) = masked.weights.values()
    step(method, masked, stage, torch.optim.SGD([weight], lr=0.1), progress(0))
    dropped = (~masked.masks["1.weight"][0, :100]).nonzero().flatten()
    assert len(dropped) > 10
    assert dropped.float().mean().item() == pytest.approx(50, abs=20)


def test_no_more_is_dropped_than_a_layer_prunes():
    method, _, _ = at_work("rigl", network(), 0.3)
    numbers = [method.numbers(kept, 100, progress(0)) for kept in (50, 90, 100)]
    assert numbers == [(15, 15), (10, 10), (0, 0)]


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


MOVERS = [
    ("rigl", "gradient"),
    ("set", "random"),
    ("flyingbird", "random"),
    ("flyingbird", "gradient"),
]


def gradients(masked, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random ones, which the weights get."""
    for weight in masked.weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator)
    return {name: weight.grad for name, weight in masked.weights.items()}


def step(method, masked, stage, optimizer, at, generator=None):
    """One step with random gradients."""
    generator = generator or torch.Generator().manual_seed(3)

    def closure(*, again: bool = False) -> Loss:
        gradients(masked, generator)
        return Loss(torch.tensor(0.0), torch.zeros(1, 1), {})

    method.step(stage, masked, closure, optimizer, at)


@pytest.mark.parametrize(("name", "growth"), MOVERS)
def test_numbers_stay_the_same_to_the_weight_in_every_layer(name, growth):
    every = {"steps": 1, "start": 0.0, "stop": 1.0}
    method, masked, (stage,) = at_work(name, network(), 0.3, growth=growth, every=every)
    method.begin(stage, masked)
    first = {n: int(mask.sum()) for n, mask in masked.masks.items()}
    optimizer = torch.optim.SGD(masked.weights.values(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for number in range(20):
        before = masked.masks
        step(method, masked, stage, optimizer, progress(number, total=20), generator)
        assert {n: int(mask.sum()) for n, mask in masked.masks.items()} == first
        if number < 10:
            assert any(not torch.equal(m, before[n]) for n, m in masked.masks.items())
    assert masked.turnover > 0.2


@pytest.mark.parametrize("name", ["rigl", "flyingbird"])
def test_the_smallest_go_and_the_largest_gradients_grow_by_brute_force(name):
    every = {"steps": 1, "start": 0.0, "stop": 1.0}
    method, masked, (stage,) = at_work(name, network(), 0.3, growth="gradient", every=every)
    method.begin(stage, masked)
    before, at = masked.masks, progress(7)
    optimizer = torch.optim.SGD(masked.weights.values(), lr=0.0)
    sizes = {n: weight.detach().abs().flatten().tolist() for n, weight in masked.weights.items()}
    step(method, masked, stage, optimizer, at)
    p = method.pruner.dropped(at)
    for layer, mask in masked.masks.items():
        kept = before[layer].flatten().nonzero().flatten().tolist()
        drop = int(p * len(kept)) if name == "rigl" else math.ceil(p * len(kept))
        stay = sorted(kept, key=lambda place: sizes[layer][place])[drop:]
        slopes = masked.weights[layer].grad.abs().flatten().tolist()
        others = [place for place in range(len(slopes)) if place not in stay]
        grow = sorted(others, key=lambda place: -slopes[place])[:drop]
        assert sorted(stay + grow) == mask.flatten().nonzero().flatten().tolist()


def test_flyingbirds_first_mask_has_igqs_shares():
    method, masked, (stage,) = at_work("flyingbird", network(), 0.3)
    method.begin(stage, masked)
    shares = allocations.create("igq")(masked.weights, 0.3)
    assert {n: int(mask.sum()) for n, mask in masked.masks.items()} == shares
    assert shares["0.weight"] / 72 > 1.5 * shares["3.weight"] / 180


def test_flyingbirds_share_falls_from_a_half_along_a_cosine():
    bird = pruners.create("flyingbird")
    shares = [bird.dropped(progress(step)) for step in (0, 25, 50, 100)]
    assert shares == pytest.approx([0.5, 0.005 + 0.495 * (1 + 0.5**0.5) / 2, 0.2525, 0.005])


def test_flyingbird_leaves_a_dense_layer_dense_and_rounds_up():
    method, _, _ = at_work("flyingbird", network(), 0.3)
    assert method.numbers(10, 10, progress(0)) == (0, 0)
    assert method.numbers(5, 10, progress(0)) == (3, 3)  # of 2.5
    assert method.numbers(1, 10, progress(99)) == (1, 1)


def plus(gaps: list[float], losses: list[float], **options):
    method, _, _ = at_work("flyingbird_plus", network(), 0.3, **options)
    method.gaps, method.losses = gaps, losses
    return method


EVERY_STEP = {"steps": 1, "start": 0.0, "stop": 1.0}
FALLING = [5.0, 4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("gaps", "losses", "numbers"),
    [
        (FALLING, FALLING, (26, 26)),  # p = 0.2525 of 100: nothing is wrong
        ([1.0, 2.0, 3.0, 2.0, 1.0], FALLING, (37, 26)),  # half rose: ⌈10.1⌉ more
        ([1.0, 2.0, 1.0, 0.5, 0.4], FALLING, (26, 26)),  # one of four
        ([1.0, 2.0, 3.0, 3.0, 2.5, 2.0, 1.0], FALLING, (26, 26)),  # the first two are too old
        (FALLING, [1.0, 1.0, 0.9, 0.9, 0.8], (26, 28)),  # half did not fall: ⌈27.3⌉
        ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5, (37, 28)),  # both
        ([1.0], [1.0], (26, 26)),  # no difference yet
        ([1.0, 2.0], FALLING, (37, 26)),  # the only one
    ],
)
def test_flyingbird_plus_follows_gap_and_loss(gaps, losses, numbers):
    method = plus(gaps, losses, every=EVERY_STEP)
    assert method.numbers(100, 1000, progress(50)) == numbers


def test_flyingbird_plus_waits_for_its_start_and_stays_within_the_layer():
    rising = [1.0, 2.0]
    late = plus(rising, rising, every=EVERY_STEP, start=0.6)
    assert late.numbers(100, 1000, progress(59)) == (19, 19)
    assert late.numbers(100, 1000, progress(60))[0] > 19
    early = plus(rising, rising, every=EVERY_STEP, start=0.0, fraction=0.9, prune_ratio=1.0)
    assert early.numbers(10, 11, progress(0)) == (10, 10)
    assert early.numbers(11, 11, progress(0)) == (0, 0)


METRICS = {"accuracy": 0.8, "val_accuracy": 0.5, "val_loss": 1.0}


def fly(**options):
    method, masked, (stage, select) = at_work("flyingbird_plus", network(), 0.3, **options)
    method.begin(stage, masked)
    optimizer = torch.optim.SGD(masked.weights.values(), lr=0.1, momentum=0.9)
    return method, masked, stage, select, optimizer


@pytest.mark.parametrize("kept", [40, 120])
@pytest.mark.parametrize("where", ["after_epoch", "begin"])
def test_flyingbird_plus_ends_at_the_asked_density(kept, where):
    method, masked, stage, select, optimizer = fly()
    masks = {n: torch.zeros_like(mask).flatten() for n, mask in masked.masks.items()}
    for mask in masks.values():
        mask[: kept // 2] = True
    masked.set({n: mask.view_as(masked.masks[n]) for n, mask in masks.items()})
    before, sizes = masked.masks, {n: w.detach().clone() for n, w in masked.weights.items()}
    if where == "begin":
        method.begin(select, masked)
    else:
        shown = method.after_epoch(stage, masked, optimizer, progress(89), METRICS)
        assert shown["density"] == kept / 252
        assert not method.eligible(stage, masked)
        shown = method.after_epoch(stage, masked, optimizer, progress(90), METRICS)
        assert shown["density"] == 76 / 252
        assert method.eligible(stage, masked)
    shares = allocations.create("igq")(masked.weights, 0.3)
    for name, mask in masked.masks.items():
        assert int(mask.sum()) == shares[name]
        both = mask & before[name]
        assert int(both.sum()) == min(shares[name], kept // 2)
        dropped, grown = before[name] & ~mask, mask & ~before[name]
        assert not dropped.any() or sizes[name][dropped].abs().max() < sizes[name][both].abs().min()
        assert bool((masked.weights[name][grown] == 0).all())
    again = masked.masks
    method.begin(select, masked)
    assert all(torch.equal(mask, again[n]) for n, mask in masked.masks.items())


def test_flyingbird_plus_grows_what_is_missing_anywhere():
    method, masked, _ = at_work("flyingbird_plus", linear([1.0] * 200), 0.3)
    masked.set({"1.weight": torch.tensor([[True] * 10 + [False] * 190])})
    method.make_exact(masked, None)
    grown = masked.masks["1.weight"][0, 10:].nonzero().flatten()
    assert len(grown) == 50
    assert grown.float().mean().item() == pytest.approx(95, abs=25)


def test_flyingbird_plus_prunes_and_grows_by_what_it_has_seen():
    method, masked, stage, _, optimizer = fly(every={"steps": 1, "stop": 0.9}, start=0.0)
    for epoch, (loss, gap) in enumerate([(1.0, 0.1), (0.9, 0.2)]):  # a falling loss, a rising gap
        seen = {"accuracy": 0.5 + gap, "val_accuracy": 0.5, "val_loss": loss}
        method.after_epoch(stage, masked, optimizer, progress(0, epoch=epoch), seen)
    before = {n: int(mask.sum()) for n, mask in masked.masks.items()}
    step(method, masked, stage, optimizer, progress(0))
    p = method.pruner.dropped(progress(0))
    after = {n: int(mask.sum()) for n, mask in masked.masks.items()}
    assert after == {n: count - math.ceil(0.4 * p * count) for n, count in before.items()}
    seen = {"accuracy": 0.5, "val_accuracy": 0.5, "val_loss": 1.5}  # both turn
    for epoch in range(2, 7):
        method.after_epoch(stage, masked, optimizer, progress(1, epoch=epoch), seen)
    step(method, masked, stage, optimizer, progress(1))
    assert all(int(mask.sum()) > after[n] for n, mask in masked.masks.items())


def test_flyingbird_plus_without_validation_is_refused_before_training_and_after():
    method, masked, stage, _, optimizer = fly()
    with pytest.raises(UsageError, match=r"Set data\.validation, e\.g\. 0\.1"):
        method.after_epoch(stage, masked, optimizer, progress(1), {"accuracy": 0.8})
    changes = {"prune": {"methods": ["flyingbird_plus"]}, "evaluate": []}
    (problem,) = inconsistencies(tiny.recipe(changes))
    assert "set data.validation, e.g. 0.1" in str(problem)
    assert not inconsistencies(tiny.recipe(changes, {"data": {"validation": 0.1}}))


def test_flyingbird_plus_goes_on_after_an_epoch_whose_steps_all_overflowed():
    method, masked, stage, _, optimizer = fly()
    seen = {"val_accuracy": 0.5, "val_loss": 1.0}  # no step was taken, so none was measured
    method.after_epoch(stage, masked, optimizer, progress(1), seen)
    assert (method.gaps, method.losses) == ([], [1.0])


def test_sharpness_gives_flyingbird_the_gradients_of_its_second_pass():
    method, masked, (stage,) = at_work(
        "flyingbird", linear(WEIGHTS), 0.5, growth="gradient", every=EVERY, fraction=0.2
    )
    masked.set({"1.weight": torch.tensor([[True] * 4 + [False] * 4])})
    (weight,) = masked.weights.values()
    passes = []

    def closure(*, again: bool = False) -> Loss:
        passes.append((again, masked.model[1].weight.detach().clone()))
        slopes = [1.0] * 5 + ([3.0, 1.0, 1.0] if again else [1.0, 1.0, 3.0])
        weight.grad = torch.tensor([slopes])
        return Loss(torch.tensor(0.0), torch.zeros(1, 1), {})

    sharp = sharpened(closure, method=method, stage=stage, masked=masked, radius=0.1)
    method.step(stage, masked, sharp, torch.optim.SGD([weight], lr=0.0), progress(1))
    (first, at), (second, moved) = passes
    assert (first, second) == (False, True)
    assert torch.linalg.norm(moved - at) == pytest.approx(0.1 * float(torch.linalg.norm(at)))
    assert masked.masks["1.weight"].tolist() == [
        [True, True, False, True, False, True, False, False]
    ]
