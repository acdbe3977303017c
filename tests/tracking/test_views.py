from __future__ import annotations

import json
from typing import Any

from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

from robustprune.tracking import views


def state(tags: dict[str, str], key: str = views.KEY) -> Any:
    """The page's state as MLflow's UI reads it."""
    view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    assert isinstance(view["name"], str)
    assert isinstance(view["createdAt"], int)
    return json.loads(view["state"])


def made(tags: dict[str, str], *accuracies: str) -> dict[str, str]:
    return views.view_tags(tags, accuracies, experiment="7", now=1000)


def test_each_robust_accuracy_is_charted_against_density_before_clean_is() -> None:
    charts = state(made({}, "clean", "pgd", "aa"))["compareRunCharts"]
    axes = [(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in charts]
    assert axes == [("final/density", f"final/{name}") for name in ("pgd", "aa", "clean")]


def test_networks_are_sorted_and_grouped_over_seeds() -> None:
    found = state(made({}, "clean", "pgd"))
    assert (found["orderByKey"], found["orderByAsc"]) == ("metrics.`final/pgd`", False)
    keys = [(key["mode"], key["groupByData"]) for key in found["groupBy"]["groupByKeys"]]
    assert keys == [("tag", "recipe"), ("tag", "network")]
    runs = state(made({}, "clean", "pgd"), f"{views.KEY}-runs")
    assert "metrics.`best/pgd`" in runs["selectedColumns"]


def test_what_another_run_has_measured_joins_and_what_is_known_writes_nothing() -> None:
    tags = made({}, "clean", "pgd")
    assert made(tags, "pgd") == made(tags) == made({}) == {}
    tags |= made(tags, "clean", "ibp")
    charted = [chart["yaxis"]["key"] for chart in state(tags)["compareRunCharts"]]
    assert charted == ["final/pgd", "final/ibp", "final/clean"]


def test_the_experiment_links_to_its_views_unless_it_is_described() -> None:
    address = views.page("7")
    assert address.startswith("#/experiments/7/runs?")
    assert address.endswith("viewStateShareKey=robustprune")
    assert f"]({address})" in made({}, "pgd")[views.NOTE]
    assert views.NOTE not in made({views.NOTE: "mine"}, "pgd")


def test_many_accuracies_fit_into_a_tag() -> None:
    tags = made({}, *(f"a-rather-long-name-of-an-attack-{number}" for number in range(99)))
    assert max(map(len, tags.values())) < MAX_EXPERIMENT_TAG_VAL_LENGTH
    assert made(tags, "one more") == {}
