from __future__ import annotations

import math

import pytest

from robustprune.tracking import describe_network, describe_run, final_metrics, phase_metrics
from robustprune.tracking.layout import finite, flatten, param_text, valid_name


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

    _validate_metric_name(valid_name(name))
    _validate_param(valid_name(name), "1")


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


def test_parameter_values_are_short_text() -> None:
    assert param_text([0.1, 0.01]) == "[0.1, 0.01]"
    assert param_text(None) == "None"
    assert len(param_text("x" * 9000)) == 6000


def test_only_finite_metrics_are_kept() -> None:
    assert finite({"a": 1, "b": math.nan, "c": math.inf}) == {"a": 1.0}


def test_phase_metrics_take_numbers_only() -> None:
    assert phase_metrics("prune", {"loss": 2, "note": "x", "ok": True}) == {"prune/loss": 2.0}


def test_final_metrics_split_intervals_and_keep_turnover() -> None:
    entry = {
        "name": "hydra-0.01",
        "turnover": 0.25,
        "kept": 5,
        "metrics": {"pgd": 0.5, "pgd_n": 100, "pgd_interval": [0.4, 0.6]},
    }
    assert final_metrics(entry) == {
        "final/turnover": 0.25,
        "final/kept": 5.0,
        "final/pgd": 0.5,
        "final/pgd_n": 100.0,
        "final/pgd_interval_low": 0.4,
        "final/pgd_interval_high": 0.6,
    }


def test_runs_and_networks_are_described_from_the_results() -> None:
    results = {"recipe": "r", "seed": 3, "robustprune": "0.1.0", "environment": {"torch": "2"}}
    params, tags = describe_run(results)
    assert params == {"seed": 3, "environment": {"torch": "2"}}
    assert tags == {"recipe": "r", "robustprune": "0.1.0"}
    params, tags = describe_network({"name": "dense", "pruner": None, "density": 1.0}, results)
    assert params == {"density": 1.0}
    assert tags == {"recipe": "r", "network": "dense"}
