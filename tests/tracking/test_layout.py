from __future__ import annotations

import math
from typing import Any

import pytest

from robustprune.tracking import ended, final_metrics, stage_metrics
from robustprune.tracking.layout import (
    describe_network,
    describe_run,
    flatten,
    network_name,
    param_text,
    recipe_of,
    run_name,
    summary,
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
    assert tags == {"recipe": "r", "seed": "3", "network": "trial-0", "ended": "finished"}
    assert network_name(entry, results) == "trial-0"


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
    assert tags == {"recipe": "r", "seed": "3", "robustprune": "0.1.0"}
    entry = {"name": "dense", "pruner": None, "density": 1.0}
    params, tags = describe_network(entry, results)
    assert params == {"pruner": "none", "density": 1.0, "seed": 3}
    groups = {"recipe": "r", "seed": "3", "network": "dense", "pruner": "none", "density": "1"}
    assert tags == {**groups, "mlflow.runColor": "#000000"}
    assert network_name(entry, results) == "dense, seed 3"


def test_the_seeds_of_a_sweep_are_one_group() -> None:
    sweep = [{"recipe": f"r-seed-{seed}-lr-1", "seed": seed} for seed in (1, 12)]
    assert {recipe_of(results) for results in sweep} == {"r-lr-1"}
    assert recipe_of({"recipe": "r-seed-1", "seed": 2}) == "r-seed-1"  # called so by its author


def test_a_pruner_has_one_colour_in_all_runs() -> None:
    colours = {
        name: describe_network({"name": "a", "pruner": name}, {})[1]["mlflow.runColor"]
        for name in ("hydra", "magnitude", "rigl")
    }
    assert len(set(colours.values())) == 3
    other = describe_network({"name": "b", "pruner": "rigl", "density": 0.1}, {"seed": 1})
    assert other[1]["mlflow.runColor"] == colours["rigl"]


def judged(name: str, density: float, **found: float) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for key, value in found.items():
        metrics |= {key: value, f"{key}_n": 100, f"{key}_interval": [value - 0.1, value + 0.1]}
    pruner = None if density == 1 else name.split("-")[0]
    return {"name": name, "pruner": pruner, "density": density, "metrics": metrics, "kept": 1234}


def test_the_best_network_is_the_pruned_one_of_the_highest_worst_robust_accuracy() -> None:
    networks = [
        judged("dense", 1.0, clean=0.9, pgd=0.8, aa=0.7),
        judged("hydra-0.1", 0.1, clean=0.7, pgd=0.6, aa=0.5),
        judged("hydra-0.01", 0.01, clean=0.6, pgd=0.65, aa=0.4),
        judged("magnitude-0.1", 0.1, clean=0.8, pgd=0.6, aa=0.4),
        judged("rigl-0.1", 0.1, clean=0.9, pgd=0.9, aa=0.9) | {"dead": {"answer": 1}},
        {"name": "later", "pruner": "hydra", "density": 0.1, "metrics": {}},
    ]
    metrics, tags = summary({"networks": networks})
    best = {key: value for key, value in metrics.items() if key.startswith("best/")}
    assert best == {"best/density": 0.1, "best/clean": 0.7, "best/pgd": 0.6, "best/aa": 0.5}
    assert tags["best"] == "hydra-0.1"
    assert metrics["final/aa/hydra-0.01"] == 0.4
    assert len(metrics) == 4 + 3 * 5
    assert summary({"networks": networks[:1]})[1]["best"] == "dense"
    assert summary({}) == ({}, {})


def test_abstentions_are_no_accuracy_by_which_networks_are_ranked() -> None:
    def entry(name: str, right: float, abstained: float) -> dict[str, Any]:
        shares = {"smoothing": right, "smoothing_abstained": abstained}
        intervals = {f"{name}_interval": [0, 1] for name in shares}
        return {"name": name, "pruner": "hydra", "density": 0.1, "metrics": shares | intervals}

    metrics, tags = summary({"networks": [entry("a", 0.5, 0.0), entry("b", 0.4, 0.3)]})
    assert tags["best"] == "a"
    assert metrics["best/smoothing"] == 0.5
    assert "best/smoothing_abstained" not in metrics


def test_the_description_of_a_run_is_the_table_of_its_networks() -> None:
    networks = [judged("dense", 1.0, clean=0.9), judged("hydra-0.1", 0.1, clean=0.7, pgd=0.5)]
    networks[1]["turnover"] = 0.25
    text = summary({"networks": networks, "max_steps": 3})[1]["mlflow.note.content"]
    assert text.splitlines() == [
        "| network | density | kept | turnover | clean % | pgd % |",
        "| --- | --: | --: | --: | --: | --: |",
        "| dense | 1 | 1,234 | – | 90.0 ± 10.0 | – |",
        "| **hydra-0.1** | 0.1 | 1,234 | 25.0 % | 70.0 ± 10.0 | 50.0 ± 10.0 |",
        "",
        "Cut at 3 steps a stage. Accuracies in percent, ± half of a 95 % interval.",
    ]


def test_a_network_carries_what_runs_are_grouped_by() -> None:
    recipe = {"objective": {"name": "o", "eps": 1}, "data": {"name": "d"}, "model": {"name": "m"}}
    results = {"seed": 0, "params": recipe, "max_steps": 5}
    params, tags = describe_network({"name": "a", "pruner": "p", "density": 0.1}, results)
    parts = {"pruner": "p", "objective": "o", "dataset": "d", "model": "m"}
    assert params == {**parts, "density": 0.1, "seed": 0, "max_steps": 5}
    assert {**parts, "network": "a", "density": "0.1", "seed": "0"}.items() <= tags.items()
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
