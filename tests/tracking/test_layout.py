from __future__ import annotations

import math

import pytest

from robustprune.tracking import ended, final_metrics, stage_metrics
from robustprune.tracking.layout import (
    describe_network,
    describe_run,
    flatten,
    param_text,
    run_name,
    valid_name,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("objective.eps", "objective.eps"),
        ("prune/loss", "prune/loss"),
        ("pgd@2/255", "pgd_2/255"),
        ("ℓ∞ error", "__ error"),
        ("../a//b/", "a/b"),
        ("", "unnamed"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_are_made_valid(name: str, expected: str) -> None:
    assert valid_name(name) == expected


@pytest.mark.parametrize("name", ["pgd@2/255", "../a//b/", "a/./b", "ε", "a\nb", "...", "x/" * 200])
def test_mlflow_accepts_every_name_made(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param

    made = valid_name(name)
    _validate_metric_name(made)  # raises
    _validate_param(made, "1")
    assert made


def test_parameters_are_flattened_with_dots_and_numbered_like_the_command_line() -> None:
    recipe = {
        "objective": {"name": "trades", "eps": 0.03},
        "prune": {"densities": [0.1, 0.01], "extra": {}},
        "evaluate": [{"name": "clean"}, {"name": "pgd", "steps": 50}],
    }
    assert flatten(recipe) == {
        "objective.name": "trades",
        "objective.eps": 0.03,
        "prune.densities": [0.1, 0.01],
        "evaluate.0.name": "clean",
        "evaluate.1.name": "pgd",
        "evaluate.1.steps": 50,
    }


def test_a_trial_has_the_values_that_it_tries_and_no_names_of_the_recipe() -> None:
    results = {"recipe": "r", "seed": 3, "params": {"model": {"name": "m"}}}
    entry = {"name": "trial-0", "values": {"model.name": "n"}, "ended": "finished"}
    params, tags = describe_network(entry, results)
    assert params == {"seed": 3, "model.name": "n"}
    assert tags == {"recipe": "r", "network": "trial-0", "ended": "finished"}


def test_parameter_values_are_short_text() -> None:
    assert param_text([0.1, 0.01]) == "[0.1, 0.01]"
    assert param_text(None) == "None"
    assert len(param_text("x" * 9000)) == 6000


def test_metrics_of_a_stage_are_its_finite_numbers() -> None:
    metrics = {"loss": 2, "note": "x", "ok": True, "b": math.nan, "c": math.inf}
    assert stage_metrics("prune", metrics) == {"prune/loss": 2.0}


def test_final_metrics_split_intervals_and_keep_turnover() -> None:
    entry = {
        "name": "hydra-0.01",
        "density": 0.01,
        "turnover": 0.25,
        "kept": 5,
        "metrics": {"pgd": 0.5, "pgd_n": 100, "pgd_interval": [0.4, 0.6], "top_n": 3},
        "measures": {"size": {"parameters": 9}},
    }
    assert next(iter(final_metrics(entry))) == "final/pgd"
    assert final_metrics(entry) == {
        "final/density": 0.01,
        "final/turnover": 0.25,
        "final/kept": 5.0,
        "final/pgd": 0.5,
        "final/images/pgd": 100.0,
        "final/interval/pgd_low": 0.4,
        "final/interval/pgd_high": 0.6,
        "final/top_n": 3.0,
        "final/size/parameters": 9.0,
    }


def test_runs_and_networks_are_described_from_the_results() -> None:
    results = {"recipe": "r", "seed": 3, "robustprune": "0.1.0", "environment": {"torch": "2"}}
    params, tags = describe_run(results)
    assert params == {"seed": 3, "environment": {"torch": "2"}}
    assert tags == {"recipe": "r", "robustprune": "0.1.0"}
    params, tags = describe_network({"name": "dense", "pruner": None, "density": 1.0}, results)
    assert params == {"pruner": "none", "density": 1.0, "seed": 3}
    assert tags == {"recipe": "r", "network": "dense", "pruner": "none"}


def test_a_network_carries_what_runs_are_grouped_by() -> None:
    recipe = {"objective": {"name": "o", "eps": 1}, "data": {"name": "d"}, "model": {"name": "m"}}
    results = {"seed": 0, "params": recipe, "max_steps": 5}
    params, tags = describe_network({"name": "a", "pruner": "p", "density": 0.1}, results)
    parts = {"pruner": "p", "objective": "o", "dataset": "d", "model": "m"}
    assert params == {**parts, "density": 0.1, "seed": 0, "max_steps": 5}
    assert tags == {**parts, "network": "a"}
    assert describe_run(results)[0]["max_steps"] == 5


@pytest.mark.parametrize("cut", [{}, {"max_steps": None}])
def test_a_run_that_was_not_cut_has_no_max_steps(cut: dict[str, None]) -> None:
    assert "max_steps" not in describe_run(cut)[0]
    assert "max_steps" not in describe_network({"name": "a"}, cut)[0]


def test_the_radius_of_each_evaluator_stands_under_its_metrics_name() -> None:
    evaluate = [
        {"name": "clean", "label": None},
        {"name": "pgd", "label": None, "eps": 0.03},
        {"name": "pgd", "label": "pgd-wide", "eps": 0.06},
        {"name": "autoattack", "steps": 10, "eps": 0.03},
    ]
    params, _ = describe_network({"name": "a"}, {"params": {"evaluate": evaluate}})
    assert {k: v for k, v in params.items() if k.endswith(".eps")} == {
        "pgd.eps": 0.03,
        "pgd-wide.eps": 0.06,
        "autoattack-10.eps": 0.03,
    }


def test_the_parent_is_tagged_with_its_parts_and_each_method_once() -> None:
    methods = [{"name": "hydra"}, {"name": "hydra", "label": "b"}, {"name": "magnitude"}]
    recipe = {"prune": {"methods": methods}, "objective": {"name": "o"}, "data": {"name": "d"}}
    _, tags = describe_run({"recipe": "r", "params": recipe})
    assert tags == {"recipe": "r", "objective": "o", "dataset": "d", "pruner": "hydra, magnitude"}


def test_runs_of_one_recipe_have_names_that_differ() -> None:
    assert run_name({"recipe": "r", "seed": 1}) == "r, seed 1"
    assert run_name({"recipe": "r", "seed": 1, "max_steps": 2}) == (
        "r, seed 1, cut at 2 steps a stage"
    )


def test_an_alarm_is_not_shown_as_a_success() -> None:
    assert (ended([{"evaluator": "ibp"}]), ended([]), ended(None)) == (
        "FAILED",
        "FINISHED",
        "FINISHED",
    )
