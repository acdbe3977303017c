"""Views of an experiment that MLflow's UI opens: what is charted, grouped and sorted by what.

The UI keeps views that are shared as tags of the experiment, ``mlflow.sharedViewState.<key>``: a
name, and the state of the page as JSON. They are in its *Views* menu, and ``?viewStateShareKey=``
opens one. Its charts and columns are of the accuracies that runs of the experiment have measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

KEY = "robustprune"
"""The key of the view of networks, which `Server` opens; ``…-runs`` is the one of runs."""

NOTE = "mlflow.note.content"
"""The tag of a description, of a run as of an experiment; Markdown."""

ACCURACIES = "robustprune.accuracies"
"""The tag of an experiment that lists what its views show; experiments without it have none."""

_TAG = "mlflow.sharedViewState."
_MOST = 12  # accuracies that have a chart: a tag takes 20,000 characters
_FOLDED = ("finetune", "prune", "final", "final/interval", "final/images", "final/size")


def page(experiment: str, *, key: str = KEY) -> str:
    """The part of an address, from its ``#`` on, that shows a view of an experiment."""
    mode = "CHART" if key == KEY else "TABLE"
    query = f"workflowType=machine_learning&compareRunsMode={mode}&viewStateShareKey={key}"
    return f"#/experiments/{experiment}/runs?{query}"


def view_tags(
    tags: Mapping[str, str], accuracies: Iterable[str], *, experiment: str, now: int
) -> dict[str, str]:
    """The tags of an experiment that give it views of these accuracies, too; none if it has them.

    Args:
        tags: what the experiment has.
        accuracies: metrics of the networks of a run.
        experiment: its id.
        now: milliseconds since 1970.
    """
    known = json.loads(tags.get(ACCURACIES, "[]"))
    found = list(dict.fromkeys([*known, *accuracies]))[:_MOST]
    if found == known or not found:
        return {}
    views = {
        KEY: ("Density against robust accuracy", _networks(found)),
        f"{KEY}-runs": ("Runs, by their best network", _runs(found)),
    }
    texts = {
        f"{_TAG}{key}": json.dumps(
            # the newest is the first of the menu
            {"name": name, "createdAt": now - number, "state": json.dumps(state)}
        )
        for number, (key, (name, state)) in enumerate(views.items())
    }
    links = (f"[{name}]({page(experiment, key=key)})" for key, (name, _) in views.items())
    note = {} if NOTE in tags else {NOTE: " · ".join(links)}
    return texts | note | {ACCURACIES: json.dumps(found)}


def _networks(accuracies: list[str]) -> dict[str, Any]:
    """Pruned networks, grouped by recipe and network over seeds; a point of a chart is a run's."""
    robust = [name for name in accuracies if name != "clean"] or accuracies
    section = f"{KEY}-density"
    return {
        **_table("params.pruner != 'none'", f"final/{robust[0]}"),
        "selectedColumns": [
            *(f"metrics.`final/{name}`" for name in (*accuracies, "turnover")),
            *(f"params.`{name}`" for name in ("density", "pruner", "seed")),
        ],
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": key} for key in ("recipe", "network")],
        },
        "useGroupedValuesInCharts": False,  # or a group's colour is none of a pruner
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # ours stays on top
        "compareRunSections": [
            {"uuid": section, "name": "density", "display": True, "columns": 2},
            *({"uuid": f"{KEY}-{name}", "name": name, "display": False} for name in _FOLDED),
        ],
        "compareRunCharts": [
            {
                "type": "SCATTER",
                "uuid": f"{KEY}-{name}",
                "metricSectionId": section,
                "displayName": f"{name} by density",
                "xaxis": {"key": "final/density", "type": "METRIC"},
                "yaxis": {"key": f"final/{name}", "type": "METRIC"},
                "runsCountToCompare": 100,
                "deleted": False,
                "isGenerated": False,
            }
            for name in dict.fromkeys([*robust, *accuracies])
        ],
    }


def _runs(accuracies: list[str]) -> dict[str, Any]:
    """Whole runs, which are the parents, with their best networks."""
    robust = [name for name in accuracies if name != "clean"] or accuracies
    metrics = (f"metrics.`best/{name}`" for name in (*accuracies, "density"))
    columns = [*metrics, "params.`seed`", "tags.`best`", "attributes.`Created`"]
    return {
        **_table("params.name LIKE '%'", f"best/{robust[0]}"),
        "selectedColumns": columns,
        "groupBy": None,
    }


def _table(matching: str, metric: str) -> dict[str, Any]:
    return {"searchFilter": matching, "orderByKey": f"metrics.`{metric}`", "orderByAsc": False}
