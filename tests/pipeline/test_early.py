"""Which trials are stopped before their end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from robustprune.pipeline.early import StoppedEarly, Watch, behind
from robustprune.pipeline.networks import networks

from . import tiny

HALF, END = 499, 999  # steps of a stage
OTHERS = [{HALF: loss, END: loss - 1, 1000 + HALF: loss + 5} for loss in (1.0, 2.0, 3.0, 4.0)]


@pytest.mark.parametrize(
    ("curve", "step", "expected"),
    [
        ({HALF: 2.6}, HALF, True),
        ({HALF: 2.5}, HALF, False),  # the median itself
        ({HALF: 2.6, END: 1.4}, END, False),
        ({HALF: 1.4, END: 9.0}, END, False),  # the lowest of the stage counts
        ({END: 0.1, 1000 + HALF: 7.6}, 1000 + HALF, True),  # and no other stage's
        ({300: 9.0}, 300, False),  # in the first third of a stage
        ({700: 9.0}, 700, False),  # where no other one has been
    ],
)
def test_a_trial_above_the_median_is_behind(
    curve: dict[int, float], step: int, expected: bool
) -> None:
    assert behind(curve, OTHERS, step) is expected


def test_there_must_be_four_others() -> None:
    assert not behind({HALF: 9.0}, OTHERS[:3], HALF)


def watch(*changes: Any, others: Any = (), curve: Any = None, told: Any = None) -> Any:
    told = [] if told is None else told
    bar = SimpleNamespace(advance=lambda n, **fields: None)
    return Watch(
        tiny.recipe(*changes),
        curve or {},
        others=others,
        report=lambda *what: told.append(what),
        bar=bar,  # type: ignore[arg-type]
    )


def played(told: list[Any], *changes: Any) -> list[Any]:
    """The reports of a trial whose losses are 1, 2, 3 and so on."""
    seen, loss = watch(*changes, told=told), 0
    for network in networks(tiny.recipe(*changes)):
        for stage in network.stages:
            history: list[dict[str, float]] = []
            for _ in range(stage.options.epochs if stage.options else 0):
                loss += 1
                history.append({"val_loss": float(loss)})
                seen(network.name, stage, history)
    return told


def test_steps_grow_over_a_trial_and_each_epoch_is_reported_once() -> None:
    told = played([])
    assert [loss for loss, _, _ in told] == [float(n) for n in range(1, 15)]
    steps = [step for _, step, _ in told]
    assert steps == sorted(set(steps))
    assert [epochs for *_, epochs in told] == list(range(1, 15))


def test_trials_of_other_epochs_meet_at_shares_of_a_stage() -> None:
    two, four = (played([], {"finetune": {"epochs": n}}) for n in (2, 4))
    assert {step for _, step, _ in two} <= {step for _, step, _ in four}


def test_a_method_of_one_stage_is_compared_where_another_has_its_last() -> None:
    hydra, magnitude = (
        {step for _, step, _ in played([], {"prune": {"methods": [name], "densities": [0.1]}})}
        for name in ("hydra", "magnitude")
    )
    assert (len(hydra), len(magnitude), len(hydra & magnitude)) == (6, 4, 4)


def test_a_stage_that_minimises_something_else_does_not_count() -> None:
    told = played([], tiny.SMALL, {"prune": {"objective": {"name": "benign"}}})
    assert [loss for loss, *_ in told] == [1.0, 2.0, 5.0, 6.0]


def test_what_an_earlier_job_has_reported_is_not_reported_again() -> None:
    before = {step: loss for loss, step, _ in played([])}
    first = networks(tiny.recipe())[0]
    told: list[Any] = []
    seen = watch(curve=before, told=told)
    seen(first.name, first.stages[0], [{"val_loss": 1.0}])
    assert told == []


@pytest.mark.parametrize("count", [1, 2])
def test_it_is_stopped_after_an_epoch_but_not_after_the_last_one(count: int) -> None:
    made = networks(tiny.recipe(tiny.SMALL))
    curves = [{step: 0.5 for _, step, _ in played([], tiny.SMALL)}] * 4
    history = [{"val_loss": 1.0}] * count
    for network in made:
        seen = watch(tiny.SMALL, others=curves)
        if network is made[-1] and count == 2:
            seen(network.name, network.stages[-1], history)
            continue
        with pytest.raises(StoppedEarly, match=f"after epoch {count} of {network.name} "):
            seen(network.name, network.stages[-1], history)


def test_a_grid_stops_none() -> None:
    network = networks(tiny.recipe(tiny.SMALL))[0]
    curves = None
    watch(tiny.SMALL, others=curves)(network.name, network.stages[0], [{"val_loss": 9.0}])
