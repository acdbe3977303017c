"""How a run looks in MLflow: names, parameters and metrics.

A parent run is a recipe, a child run a network. Live tracking and `import_run` both go through
here, so that they write the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAME_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
"""MLflow's limits, in characters."""

_OWN_KEYS = ("kept", "prunable", "turnover")
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
    return params, tags


def describe_network(
    entry: Mapping[str, Any], results: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters and tags of a child run, from its entry in ``results.json``.

    The names of the recipe's objective, dataset and model and its seed are repeated here, because
    MLflow filters and groups runs by what they carry themselves. Works as soon as ``entry`` has
    ``pruner`` and ``density``, before there are any metrics.
    """
    names = {key: entry[key] for key in ("pruner",) if entry.get(key) is not None}
    names |= _parts(results)
    params = names | {key: entry[key] for key in ("density",) if entry.get(key) is not None}
    if "seed" in results:
        params["seed"] = results["seed"]
    tags = {key: str(results[key]) for key in ("recipe",) if key in results}
    tags |= {key: str(name) for key, name in names.items()}
    return params | _cut(results), tags | {"network": str(entry["name"])}


def folder_tags(folder: Path) -> dict[str, str]:
    """The tag that every run of a run folder carries: its name, without where it lies."""
    return {"folder": folder.resolve().name}


def recorded(results: Mapping[str, Any], section: str, key: str) -> Any:
    """An option of the recipe that ``results.json`` keeps, e.g. ``model``'s ``name``; or None."""
    params = results.get("params")
    options = params.get(section) if isinstance(params, Mapping) else None
    return options.get(key) if isinstance(options, Mapping) else None


def phase_metrics(phase: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """An epoch's numbers under their phase: ``{"pretrain/loss": 2.3}``."""
    return {f"{phase}/{key}": float(v) for key, v in metrics.items() if _is_number(v)}


def final_metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    """What a network ended with, from its entry in ``results.json``, all under ``final/``.

    An interval ``pgd_interval`` becomes ``final/pgd_interval_low`` and ``…_high``.
    """
    found = {key: entry[key] for key in _OWN_KEYS if entry.get(key) is not None}
    for key, value in (entry.get("metrics") or {}).items():
        if isinstance(value, list | tuple) and len(value) == 2:
            found |= {f"{key}_low": value[0], f"{key}_high": value[1]}
        else:
            found[key] = value
    return phase_metrics("final", found)


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


def _cut(results: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_steps": results["max_steps"]} if results.get("max_steps") else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
