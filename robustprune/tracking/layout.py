"""The layout of a run in MLflow: names, parameters, tags and metrics.

A parent run is a recipe, a child run a network. Live tracking and `import_run` both go through
here, so that they write the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from robustprune.families import metric_of

RUN_FILES = ("recipe.yaml", "results.json", "best.yaml", "imports", "report")
"""Files and folders of a run folder that are uploaded to the parent run where they exist."""
NETWORK_FILES = ("history.json", "images.parquet")
"""Files of a network's folder that are uploaded to its run, beside the model."""

CODE_FOLDER, CODE_IMPORTS = "code", "imports.json"
"""Where a model's artifacts have its code, and the file in there that lists what to import."""


def valid_name(name: str) -> str:
    """``name`` as MLflow accepts it: at most 250 letters, digits, ``_ - . : /``, space; a path."""
    text = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:250].lstrip("./")
    return "/".join(part for part in text.split("/") if part.strip(".")) or "unnamed"


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as one level with dots: ``{"objective.eps": 0.03, "evaluate.0.name": …}``.

    Lists of plain values stay one parameter; other lists are counted from 0, which is how the
    command line's ``--set`` addresses them.
    """
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, list | tuple) and any(isinstance(v, Mapping | list) for v in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[valid_name(f"{prefix}{key}")] = value
    return flat


def param_text(value: Any) -> str:
    """A parameter's value as MLflow keeps it: text of at most 6,000 characters."""
    text = json.dumps(value, default=str) if isinstance(value, list | tuple) else str(value)
    return text[:6000]


def run_name(results: Mapping[str, Any]) -> str:
    """The parent run's name: the recipe, and what tells its runs apart in a list."""
    seed = f", seed {results['seed']}" if "seed" in results else ""
    cut = f", cut at {results['max_steps']} steps a stage" if results.get("max_steps") else ""
    return f"{results.get('recipe', 'unnamed')}{seed}{cut}"


def describe_run(results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters and tags of the parent run, from the content of ``results.json``."""
    recipe = results.get("params") or {}
    params = _known(results, "seed") | recipe | _known(results, "max_steps")
    params["environment"] = results.get("environment") or {}
    tags = _known(results, "recipe", "robustprune") | _components(recipe)
    if methods := (recipe.get("prune") or {}).get("methods"):
        tags["pruner"] = ", ".join(dict.fromkeys(method["name"] for method in methods))
    return params, tags


def describe_network(
    entry: Mapping[str, Any], results: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters and tags of a child run, from its entry in ``results.json``.

    The names of the recipe's objective, dataset and model, its seed and the radius of each
    evaluator (``pgd.eps``) are repeated here, because MLflow filters, groups and compares runs by
    what they carry themselves. The pruner of a dense network is ``none``: charts leave out no run.
    A trial of a study has the ``values`` that it tries instead, which may be other names than the
    recipe's, and a tag that says how it ``ended``.
    """
    recipe = results.get("params") or {}
    trial = "values" in entry
    names = {} if trial else {"pruner": entry.get("pruner") or "none", **_components(recipe)}
    params = names | _known(entry, "density") | _known(results, "seed", "max_steps")
    params |= entry.get("values") or {}
    for evaluator in recipe.get("evaluate") or ():
        if evaluator.get("eps") is not None:
            params[f"{metric_of(evaluator)}.eps"] = evaluator["eps"]
    tags = names | _known(results, "recipe") | {"network": entry["name"]} | _known(entry, "ended")
    if dead := entry.get("dead"):
        tags["dead"] = f"class {dead['answer']} for all {dead['images']} images"
        tags["mlflow.note.content"] = f"A dead network: it answers {tags['dead']}."
    return params, tags


def ended(alarms: object) -> str:
    """The status of a run that came to its end: alarms mean that its certificates are wrong."""
    return "FAILED" if alarms else "FINISHED"


def stage_metrics(stage: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """An epoch's finite numbers, which charts can show, under their stage: ``pretrain/loss``."""
    return {
        f"{stage}/{key}": float(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def final_metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a network's entry in ``results.json``, all under ``final/``.

    Accuracies come first: MLflow's compare view shows the first metric that the runs share. The
    density is among them, because charts plot nothing but metrics.

    An interval ``pgd_interval`` becomes ``final/interval/pgd_low`` and ``…_high``, a number of
    images ``pgd_n`` becomes ``final/images/pgd``, a measure's value ``final/size/parameters``:
    MLflow's UI draws what is before the last slash in sections, which does not bury accuracies.
    """
    metrics = entry.get("metrics") or {}
    first: dict[str, Any] = {}
    beside = _known(entry, "density", "kept", "prunable", "turnover")
    for key, value in metrics.items():
        name = key.removesuffix("_interval")
        if isinstance(value, list | tuple):
            beside |= {f"interval/{name}_low": value[0], f"interval/{name}_high": value[1]}
        elif key.endswith("_n") and key[:-2] in metrics:
            beside[f"images/{key[:-2]}"] = value
        else:
            first[key] = value
    if entry.get("dead"):
        beside["dead"] = 1
    for measure, values in (entry.get("measures") or {}).items():
        beside |= {f"{measure}/{key}": value for key, value in values.items()}
    return stage_metrics("final", first | beside)


def _components(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The registered names of the recipe's components, as far as they are known."""
    sections = {"objective": "objective", "dataset": "data", "model": "model"}
    return {key: recipe[name]["name"] for key, name in sections.items() if recipe.get(name)}


def _known(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: document[key] for key in keys if document.get(key) is not None}
