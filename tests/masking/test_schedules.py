import pytest
from pydantic import ValidationError

from robustprune.masking.schedules import Every, cubic
from robustprune.types import Progress


def due(every: Every, total: int) -> list[int]:
    """The steps, from 0, after which masks change."""
    return [s for s in range(total) if every.due(Progress(step=s, fraction=s / total))]


def test_changes_come_after_every_so_many_steps_until_three_quarters_of_the_stage():
    assert due(Every(steps=10), 100) == [9, 19, 29, 39, 49, 59, 69]
    assert due(Every(steps=1, start=0.5, stop=0.55), 100) == [50, 51, 52, 53, 54]
    assert due(Every(steps=1, stop=1), 7) == list(range(7))


def test_the_share_of_the_stretch_that_lies_behind_stays_between_0_and_1():
    every = Every(start=0.2, stop=0.6)
    shares = [every.done(Progress(fraction=f)) for f in (0.0, 0.2, 0.3, 0.6, 0.9)]
    assert shares == pytest.approx([0, 0, 0.25, 1, 1])


def test_the_cubic_ramp_by_hand():
    values = [cubic(1.0, 0.1, done) for done in (0, 0.5, 1)]
    assert values == pytest.approx([1.0, 0.1 + 0.9 / 8, 0.1])


@pytest.mark.parametrize("options", [{"start": 0.5, "stop": 0.5}, {"start": 0.8, "stop": 0.2}])
def test_a_stretch_that_ends_before_it_starts_is_refused(options):
    with pytest.raises(ValidationError, match="is not before stop"):
        Every(**options)
