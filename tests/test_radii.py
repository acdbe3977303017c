"""Radii in 255ths, and steps that lead nowhere, are refused wherever they are written."""

import pytest
from pydantic import Field

from robustprune import evaluators, objectives
from robustprune.components import Options, build
from robustprune.errors import UsageError
from robustprune.radii import L2Radius, Radius, Sigma, StepSize, check_reach, default_step

LENGTHS = ("eps", "radius", "radii", "sigma", "step_size")
EUCLIDEAN = {("smoothadv", "eps"), ("smoothing", "radius"), ("smoothing", "radii")}
NEEDED = {"torchattacks": {"attack": "FGSM"}}


class Own(Options):
    """A part as a user writes it."""

    norm: str = "linf"
    eps: Radius = Field(8 / 255, gt=0)
    steps: int = 10
    step_size: StepSize | None = None
    sigma: Sigma = 0.25
    certified: L2Radius = 0.5


@pytest.mark.parametrize("family", [evaluators, objectives])
def test_every_length_of_every_part_asks_whether_255ths_are_meant(family):
    for name in family.names():
        for field in family.get(name).model_fields.keys() & set(LENGTHS):
            value = 64 if (name, field) in EUCLIDEAN else 8
            given = [value] if field == "radii" else value
            with pytest.raises(UsageError, match=rf"{field}.*got {value} \({value}/255\?\)"):
                family.create(name, **NEEDED.get(name, {}), **{field: given})


@pytest.mark.parametrize("name", ["pgd", "autoattack", "torchattacks"])
def test_in_l2_a_radius_may_exceed_1(name):
    needed = {"attack": "PGDL2"} if name == "torchattacks" else {}
    assert evaluators.create(name, norm="l2", eps=3, **needed).refutes.eps == 3
    with pytest.raises(UsageError, match="128/255"):
        evaluators.create(name, norm="l2", eps=128, **needed)
    assert objectives.create("trades", norm="l2", eps=2).eps == 2


def test_lengths_among_an_attack_s_own_arguments_are_refused_too():
    for attack, key in (("PGD", "eps"), ("PIFGSM", "max_epsilon")):
        with pytest.raises(UsageError, match="8/255"):
            evaluators.create("torchattacks", attack=attack, args={key: 8})
    for attack, key in (("PGD", "alpha"), ("GN", "std"), ("PGDRS", "noise_sd"), ("SPSA", "lr")):
        with pytest.raises(UsageError, match=f"args: {key}: .*2/255"):
            evaluators.create("torchattacks", attack=attack, eps=0.1, args={key: 2})


def test_a_user_s_own_part_is_refused_the_same():
    assert build(Own, {"norm": "l2", "eps": 2, "sigma": "64/255"}).sigma == 64 / 255
    for field in ("eps", "step_size", "sigma"):
        with pytest.raises(UsageError, match="8/255"):
            build(Own, {field: 8})
    with pytest.raises(UsageError, match="64/255"):
        build(Own, {"certified": 64})


@pytest.mark.parametrize("value", ["9000", "-0.1", "inf"])
def test_what_no_255th_explains_is_refused_without_a_guess(value):
    with pytest.raises(UsageError, match="eps") as caught:
        build(Own, {"eps": value})
    assert "/255?" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        (evaluators, "pgd", {"eps": 0.3, "steps": 10, "step_size": 0.01}),
        (objectives, "pgd", {"eps": 0.3, "steps": 10, "step_size": 0.01}),
        (objectives, "trades", {"norm": "l2", "eps": 2, "steps": 5, "step_size": 0.1}),
        (objectives, "fgsm", {"eps": 0.1, "step_size": 0.05}),
        (objectives, "smoothadv", {"eps": 0.5, "steps": 2, "step_size": 0.2}),
    ],
)
def test_steps_that_do_not_reach_the_ball_are_refused(family, name, options):
    with pytest.raises(UsageError, match=r"step_size: .* does not reach eps"):
        family.create(name, **options)


def test_the_step_that_follows_reaches_the_ball():
    assert check_reach(0.1 / 3, eps=0.1, steps=3) == 0.1 / 3
    for steps, share in ((1, 1.25), (2, 0.625), (5, 0.25), (50, 0.25)):
        assert default_step(0.2, steps) == pytest.approx(share * 0.2)
        assert check_reach(default_step(0.2, steps), eps=0.2, steps=steps)
