"""How a run looks in MLflow: names, parameters and metrics.

A parent run is a recipe, a child run a network. Live tracking and `import_run` both go through
here, so that they write the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from robustprune.families import metric_of

NAME_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
"""MLflow's limits, in characters."""

RUN_FILES = ("recipe.yaml", "results.json", "imports", "report")
"""What of a run folder is uploaded to the parent run, as far as it is there; folders whole."""
NETWORK_FILES = ("history.json", "images.parquet")
"""What of a network's folder is uploaded to its run, beside the model."""

_OWN_KEYS = ("density", "kept", "prunable", "turnover")
_PARTS = {"objective": "objective", "dataset": "data", "model": "model"}  # our word: the recipe's


def valid_name(name: str) -> str:
    """``name`` as MLflow accepts it: letters, digits, ``_ - . : /`` and space; a clean path."""
    text = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:NAME_LENGTH].lstrip("./")
    return "/".join(part for part in text.split("/") if part.strip(".")) or "unnamed"


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested parameters as one level with dots: ``{"objective.eps": 0.03, "evaluate.0.name": …}``.

    Lists of plain values stay one parameter; other lists are counted from 0, which is how the
    command line's ``--set`` addresses them.
    """
    return {valid_name(key): value for key, value in _leaves("", params)}


def param_text(value: Any) -> str:
    """A parameter's value as MLflow keeps it: text of at most 6,000 characters."""
    text = json.dumps(value, default=str) if isinstance(value, list | tuple) else str(value)
    return text[:PARAM_LENGTH]


def describe_run(results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters and tags of the parent run, from the content of ``results.json``.

    Parameters are its ``params`` (the resolved recipe), ``environment`` and, if the run was cut
    short, ``max_steps``.
    """
    params = dict(results.get("params") or {})
    if "seed" in results:
        params.setdefault("seed", results["seed"])
    params |= _cut(results)
    params["environment"] = results.get("environment") or {}
    tags = {key: str(results[key]) for key in ("recipe", "robustprune") if key in results}
    tags |= {key: str(name) for key, name in _parts(results).items()}
    if methods := _methods(results):
        tags["pruner"] = ", ".join(methods)
    return params, tags


def run_name(results: Mapping[str, Any]) -> str:
    """What the parent run is called: the recipe, and what tells its runs apart in a list."""
    seed = f", seed {results['seed']}" if "seed" in results else ""
    cut = f", cut at {results['max_steps']} steps a stage" if _cut(results) else ""
    return f"{results.get('recipe', 'unnamed')}{seed}{cut}"


def describe_network(
    entry: Mapping[str, Any], results: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters and tags of a child run, from its entry in ``results.json``.

    The names of the recipe's objective, dataset and model, its seed and the radius of each
    evaluator (``pgd.eps``) are repeated here, because MLflow filters, groups and compares runs by
    what they carry themselves. Works as soon as ``entry`` has ``pruner`` and ``density``, before
    there are any metrics. The pruner of a dense network is ``none``, so that it is not left out of
    charts by pruner.
    """
    names = {"pruner": entry.get("pruner") or "none", **_parts(results)}
    params = names | {key: entry[key] for key in ("density",) if entry.get(key) is not None}
    params |= _radii(results)
    if "seed" in results:
        params["seed"] = results["seed"]
    tags = {key: str(results[key]) for key in ("recipe",) if key in results}
    tags |= {key: str(name) for key, name in names.items()}
    if isinstance(dead := entry.get("dead"), Mapping):
        tags["dead"] = f"class {dead.get('answer')} for all {dead.get('images')} images"
        tags["mlflow.note.content"] = f"A dead network: it answers {tags['dead']}."
    return params | _cut(results), tags | {"network": str(entry["name"])}


def folder_tags(folder: Path) -> dict[str, str]:
    """The tag that every run of a run folder carries: its name, without where it lies."""
    return {"folder": folder.resolve().name}


def uploads(folder: Path, names: Iterable[str]) -> list[tuple[Path, str | None]]:
    """Those of ``names`` that are in ``folder``, and where in a run's artifacts each one goes."""
    found = [folder / name for name in names if (folder / name).exists()]
    return [(path, path.name if path.is_dir() else None) for path in found]


def ended(alarms: object) -> str:
    """How MLflow shows a run that came to its end: alarms mean that its certificates are wrong."""
    return "FAILED" if alarms else "FINISHED"


def recorded_section(results: Mapping[str, Any], section: str) -> Any:
    """A section of the recipe that ``results.json`` keeps, e.g. ``data``; None if there is none."""
    params = results.get("params")
    return params.get(section) if isinstance(params, Mapping) else None


def recorded(results: Mapping[str, Any], section: str, key: str) -> Any:
    """An option of the recipe that ``results.json`` keeps, e.g. ``model``'s ``name``; or None."""
    options = recorded_section(results, section)
    return options.get(key) if isinstance(options, Mapping) else None


def stage_metrics(stage: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """An epoch's numbers under their stage: ``{"pretrain/loss": 2.3}``."""
    return {f"{stage}/{key}": float(v) for key, v in metrics.items() if _is_number(v)}


def final_metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    """What a network ended with, from its entry in ``results.json``, all under ``final/``.

    Accuracies come first: MLflow's compare view shows the first metric that the runs share. The
    density is among them, because charts plot nothing but metrics.

    An interval ``pgd_interval`` becomes ``final/interval/pgd_low`` and ``…_high``, a number of
    images ``pgd_n`` becomes ``final/images/pgd``: MLflow's UI draws what is before the last slash
    in sections, and so does not bury the accuracies.
    """
    metrics = entry.get("metrics") or {}
    found: dict[str, Any] = {}
    beside = {key: entry[key] for key in _OWN_KEYS if entry.get(key) is not None}
    beside |= {"dead": 1} if entry.get("dead") else {}
    for key, value in metrics.items():
        name = key.removesuffix("_interval")
        if isinstance(value, list | tuple) and len(value) == 2:
            beside |= {f"interval/{name}_low": value[0], f"interval/{name}_high": value[1]}
        elif key.endswith("_n") and key[:-2] in metrics:
            beside[f"images/{key[:-2]}"] = value
        else:
            found[key] = value
    return stage_metrics("final", found | beside)


def is_of_images(metric: str) -> bool:
    """Whether a final metric was measured on the test images; the others are of the masks."""
    return metric.removeprefix("final/") not in _OWN_KEYS


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """``values`` with valid names and without NaN and infinity, which no chart can show."""
    return {valid_name(key): float(v) for key, v in values.items() if math.isfinite(v)}


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping | list) for v in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        yield prefix, value
        return
    for key, item in items:
        yield from _leaves(f"{prefix}.{key}" if prefix else key, item)


def _parts(results: Mapping[str, Any]) -> dict[str, Any]:
    """The registered names of the recipe's parts, as far as they are known."""
    names = {key: recorded(results, section, "name") for key, section in _PARTS.items()}
    return {key: name for key, name in names.items() if name is not None}


def _methods(results: Mapping[str, Any]) -> list[str]:
    """The names of the recipe's pruners, each once, in its order."""
    methods = recorded(results, "prune", "methods")
    entries = methods if isinstance(methods, list) else []
    names = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in entries]
    return list(dict.fromkeys(map(str, names)))


def _radii(results: Mapping[str, Any]) -> dict[str, Any]:
    """The radius of each evaluator that has one, under its metric's name: ``{"pgd.eps": 0.03}``."""
    section = recorded_section(results, "evaluate")
    entries = section if isinstance(section, list) else []
    return {
        f"{metric_of(entry)}.eps": entry["eps"]
        for entry in entries
        if isinstance(entry, Mapping) and entry.get("eps") is not None
    }


def _cut(results: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_steps": results["max_steps"]} if results.get("max_steps") else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
