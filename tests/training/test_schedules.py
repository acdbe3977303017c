import math

import pytest

from robustprune.errors import UsageError
from robustprune.training import schedules
from robustprune.training.schedules import Schedule
from robustprune.types import Progress


def at(fraction: float, epoch: int = 0) -> Progress:
    return Progress(epoch, 0, fraction)


@pytest.mark.parametrize("name", schedules.names())
def test_every_schedule_is_finite_and_never_negative(name):
    schedule = schedules.create(name)
    for steps in (1, 2, 3, 1000):
        factors = [schedule(Progress(step // 10, step, step / steps)) for step in range(steps)]
        assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)
        assert factors[0] > 0, "the first step must move"


@pytest.mark.parametrize("name", schedules.names())
def test_every_schedule_is_documented_and_survives_its_own_document(name):
    schedule = schedules.create(name)
    assert type(schedule).__doc__
    document = schedule.model_dump(mode="json", serialize_as_any=True)
    assert document.pop("name") == name
    assert schedules.create(name, **document) == schedule


@pytest.mark.parametrize(
    ("fraction", "factor"), [(0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1, 0.0)]
)
def test_cosine_by_hand(fraction, factor):
    assert schedules.create("cosine")(at(fraction)) == pytest.approx(factor)
    raised = 0.2 + 0.8 * factor
    assert schedules.create("cosine", floor=0.2)(at(fraction)) == pytest.approx(raised)


def test_cosine_is_one_at_the_first_step_and_not_yet_zero_at_the_last():
    schedule, steps = schedules.create("cosine"), 10
    factors = [schedule(at(step / steps)) for step in range(steps)]
    assert factors[0] == 1
    assert factors[-1] == pytest.approx((1 - math.cos(math.pi / 10)) / 2)
    assert factors == sorted(set(factors), reverse=True)


@pytest.mark.parametrize("fraction", [0, 0.3, 0.999])
def test_constant_is_one(fraction):
    assert schedules.create("constant")(at(fraction, 7)) == 1


@pytest.mark.parametrize(
    ("fraction", "factor"), [(0, 1), (0.49, 1), (0.5, 0.1), (0.74, 0.1), (0.75, 0.01), (0.99, 0.01)]
)
def test_step_at_shares_of_the_phase(fraction, factor):
    assert schedules.create("step")(at(fraction)) == pytest.approx(factor)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (9, 1), (10, 0.5), (19, 0.5), (20, 0.25)])
def test_step_at_epochs(epoch, factor):
    schedule = schedules.create("step", milestones=[10, 20], gamma=0.5)
    assert schedule(at(0.999, epoch)) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("fraction", "factor"),
    [(0, 1e-3), (1e-5, 1e-3), (0.05, 0.25), (0.1, 0.5), (0.2, 1.0), (0.6, 0.5), (1.0, 0.0)],
)
def test_warmup_and_then_cosine(fraction, factor):
    assert schedules.create("warmup")(at(fraction)) == pytest.approx(factor)


def test_what_follows_a_warmup_sees_its_own_fraction_and_the_true_epoch():
    seen: list[Progress] = []

    class Spy(Schedule):
        def __call__(self, progress: Progress) -> float:
            seen.append(progress)
            return 0.125

    schedule = schedules.create("warmup", share=0.5, after=Spy())
    assert schedule(Progress(3, 40, 0.75)) == 0.125
    assert seen == [Progress(3, 40, 0.5)]


def test_a_warmup_takes_any_schedule_after_it():
    schedule = schedules.create("warmup", share="1/4", after={"name": "step", "milestones": [0.5]})
    assert schedule(at(0.125)) == pytest.approx(0.5)
    assert schedule(at(0.6)) == 1
    assert schedule(at(0.625)) == pytest.approx(0.1)
    assert schedules.create("warmup", after="constant")(at(0.9)) == 1


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("cosine", {"floor": -0.1}),
        ("cosine", {"floor": 1.1}),
        ("step", {"gamma": 0}),
        ("warmup", {"share": 0}),
        ("warmup", {"share": 1}),
        ("warmup", {"after": "cosin"}),
        ("constant", {"floor": 0}),
        ("cosin", {}),
    ],
)
def test_wrong_options_are_refused(name, fields):
    with pytest.raises(UsageError):
        schedules.create(name, **fields)


def test_a_schedule_without_a_method_says_what_it_lacks():
    class Mine(Schedule):
        pass

    with pytest.raises(TypeError, match="Mine must define __call__"):
        Mine()(at(0))


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (1, 1), (2, 0.5), (4, 0.25), (5, 0.25)])
def test_cyclic_falls_at_each_third_and_is_reset(epoch, factor):
    schedule = schedules.create("cyclic", epochs=6, gamma=0.5)
    assert schedule(at(0.3, epoch)) == schedule(at(0.9, epoch + 6)) == factor


def test_cycles_that_thirds_do_not_divide():
    schedule = schedules.create("cyclic", epochs=4, gamma=0.1)
    factors = [schedule(at(0, epoch)) for epoch in range(5)]
    assert factors == pytest.approx([1, 1, 0.1, 0.01, 1])  # the thirds begin at 4/3 and 8/3
