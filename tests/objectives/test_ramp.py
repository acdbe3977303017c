import itertools

import pytest

from robustprune.components import Options, build
from robustprune.errors import InvalidError
from robustprune.objectives import get
from robustprune.objectives.ramp import Ramp
from robustprune.types import Progress


def at(position: float, *, epochs: int = 200, stage="pretrain") -> Progress:
    return Progress(fraction=position / epochs, epochs=epochs, stage=stage)


def test_no_ramp_is_the_whole_radius_from_the_first_step():
    for stage in ("pretrain", "prune", "finetune"):
        assert Ramp().factor(Progress(stage=stage)) == 1


@pytest.mark.parametrize(
    ("position", "expected"), [(0, 0), (10, 0), (12.5, 0.25), (15, 0.5), (20, 1), (150, 1)]
)
def test_a_linear_ramp_counts_epochs_from_its_start(position, expected):
    assert Ramp(epochs=10, start=10).factor(at(position)) == pytest.approx(expected)


def test_the_paper_s_ramp_ends_with_epoch_119():
    ramp = Ramp(epochs=119)
    assert ramp.factor(at(59.5)) == pytest.approx(0.5)
    assert ramp.factor(at(118.9)) < 1
    assert ramp.factor(at(119)) == pytest.approx(1)


def test_the_ramp_moves_within_an_epoch():
    ramp = Ramp(epochs=4)
    steps = [ramp.factor(Progress(epoch=0, fraction=s / 80, epochs=8)) for s in range(10)]
    assert steps == pytest.approx([s / 40 for s in range(10)])


def test_no_length_and_a_start_is_a_jump():
    ramp = Ramp(start=5)
    assert [ramp.factor(at(p)) for p in (0, 4.9, 5.1)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, 0), (0.125, 1 / 208), (0.25, 1 / 13), (0.5, 5 / 13), (0.75, 9 / 13), (1, 1)],
)
def test_a_smoothed_ramp_at_known_points(share, expected):
    """With c = 256/13, c·t⁴ gives 1/13 at a quarter, from where the slope is 16/13."""
    ramp = Ramp(epochs=100, start=20, shape="smoothed")
    assert ramp.factor(at(20 + 100 * share)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", ["linear", "smoothed"])
def test_ramps_are_continuous_and_never_fall(shape):
    ramp = Ramp(epochs=100, start=50, shape=shape)
    values = [ramp.factor(at(k / 10)) for k in range(2000)]
    rises = [after - before for before, after in itertools.pairwise(values)]
    assert values[0] == 0
    assert values[-1] == 1
    assert min(rises) >= 0
    assert max(rises) <= 16 / 13 / 1000 + 1e-12


def test_a_smoothed_ramp_has_no_kink_in_its_middle():
    ramp = Ramp(epochs=100, shape="smoothed")
    below, middle, above = (ramp.factor(at(p)) for p in (24.99, 25, 25.01))
    assert (above - middle) / (middle - below) == pytest.approx(1, abs=1e-3)


def test_a_ramp_acts_in_its_stages_only():
    ramp = Ramp(epochs=10)
    assert ramp.factor(at(2)) == pytest.approx(0.2)
    assert ramp.factor(at(2, stage="prune")) == 1
    assert ramp.factor(at(2, stage="finetune")) == 1
    everywhere = Ramp(epochs=10, stages=["pretrain", "prune", "finetune"])
    assert everywhere.factor(at(2, stage="finetune")) == pytest.approx(0.2)
    assert Ramp(epochs=10, start=10, stages=["prune"]).factor(at(0)) == 1


def test_a_recipe_writes_a_ramp_as_a_group():
    objective = build(get("smoothadv"), {"eps": "64/255", "ramp": {"epochs": "238/2"}})
    assert objective.ramp == Ramp(epochs=119)
    document = objective.model_dump()
    assert document.pop("name") == "smoothadv"
    assert build(get("smoothadv"), document) == objective


@pytest.mark.parametrize(
    ("ramp", "place", "words"),
    [
        ({"epoch": 3}, ("ramp", "epoch"), "epochs"),
        ({"epochs": -1}, ("ramp", "epochs"), "0"),
        ({"shape": "smooth"}, ("ramp", "shape"), "smoothed"),
        ({"stage": ["pretrain"]}, ("ramp", "stage"), "stages"),
        (10, ("ramp",), "mapping"),
    ],
)
def test_mistakes_are_named_with_their_place(ramp, place, words):
    with pytest.raises(InvalidError) as caught:
        build(get("smoothadv"), {"ramp": ramp})
    (problem,) = caught.value.problems
    assert tuple(problem.place) == place
    assert words in problem.message


def test_a_ramp_is_a_group_of_options_not_a_part():
    assert issubclass(Ramp, Options)
    assert "name" not in Ramp().model_dump()
