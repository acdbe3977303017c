"""The layout of a run in MLflow: names, parameters, tags and metrics.

A parent run is a recipe, a child run a network. Live tracking and `import_run` both go through
here, so that they write the same.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustprune.families import metric_of

RUN_FILES = ("recipe.yaml", "results.json", "best.yaml", "imports", "report")
"""Files and folders of a run folder that are uploaded to the parent run where they exist."""
NETWORK_FILES = ("history.json", "images.parquet")
"""Files of a network's folder that are uploaded to its run, beside the model."""

UNDECIDED = ("_abstained", "_left_out")
"""Endings of metrics that are shares of images, as accuracies are, of which more is not better."""

CODE_FOLDER, CODE_IMPORTS = "code", "imports.json"
"""Where a model's artifacts have its code, and the file in there that lists what to import."""


# Okabe, Ito 2008, *Color Universal Design*, without its yellow; the reports' colours
_COLOURS = {"none": "#000000", "hydra": "#0072B2", "magnitude": "#D55E00", "random": "#767676"}
_SPARE = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")


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
    cut = f", cut at {results['max_steps']} steps a stage" if results.get("max_steps") else ""
    return f"{recipe_of(results) or 'unnamed'}{_seed(results)}{cut}"


def network_name(entry: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The child run's name: the network, and the seed; a trial's is its own."""
    return str(entry["name"]) + ("" if "values" in entry else _seed(results))


def recipe_of(results: Mapping[str, Any]) -> str | None:
    """The recipe's name, the same for all seeds: a sweep's own ending ``-seed-3`` is left out."""
    name = results.get("recipe")
    return name and re.sub(rf"-seed-{results.get('seed')}(?!\d)", "", str(name))


def describe_run(results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters and tags of the parent run, from the content of ``results.json``."""
    recipe = results.get("params") or {}
    params = _known(results, "seed") | recipe | _known(results, "max_steps")
    params["environment"] = results.get("environment") or {}
    tags = _labels(results) | _known(results, "robustprune") | _components(recipe)
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
    tags = names | _labels(results) | {"network": entry["name"]} | _known(entry, "ended")
    if not trial:
        tags |= {"mlflow.runColor": _colour(names["pruner"])}
        tags |= {key: f"{value:g}" for key, value in _known(entry, "density").items()}
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


def accuracies(networks: Iterable[Mapping[str, Any]]) -> list[str]:
    """The accuracies of networks' entries, in the order in which they were measured."""
    found = (metrics for entry in networks if (metrics := entry.get("metrics")))
    names = (name for metrics in found for name in metrics if f"{name}_interval" in metrics)
    return [name for name in dict.fromkeys(names) if not name.endswith(UNDECIDED)]


def summary(results: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of the parent run: what has come out so far.

    ``final/pgd/hydra-0.01`` is an accuracy of a network, ``best/pgd`` the one of the best network
    and ``best/density`` its density. The best is the pruned network (the dense one where there is
    no other) of the highest robust accuracy: the lowest of its own, if several were measured.
    """
    networks = [entry for entry in results.get("networks") or () if entry.get("metrics")]
    names = accuracies(networks)
    if not names:
        return {}, {}
    robust = [name for name in names if name != "clean"] or names

    def worth(entry: Mapping[str, Any]) -> tuple[list[float], float]:
        found = sorted(entry["metrics"][name] for name in robust if name in entry["metrics"])
        return found, -entry.get("density", 1)

    sound = [entry for entry in networks if not (entry.get("dead") or entry.get("alarms"))]
    pruned = [entry for entry in sound if entry.get("pruner")]
    metrics, tags, star = {}, {}, ""
    if best := max(pruned or sound, key=worth, default=None):
        found = _known(best, "density") | _known(best["metrics"], *names)
        metrics = {f"best/{name}": value for name, value in found.items()}
        tags["best"] = star = best["name"]
    metrics |= {
        f"final/{name}/{entry['name']}": entry["metrics"][name]
        for name in names
        for entry in networks
        if name in entry["metrics"]
    }
    return metrics, tags | {"mlflow.note.content": _table(results, networks, names, star)}


def _table(
    results: Mapping[str, Any],
    networks: Iterable[Mapping[str, Any]],
    names: Sequence[str],
    best: str,
) -> str:
    """The networks of a run as a table in Markdown, the best one in bold."""
    heads = ["network", "density", "kept", "turnover", *(f"{name} %" for name in names)]
    lines = [heads, ["---", *(["--:"] * (len(heads) - 1))]]
    for entry in networks:
        marks = "".join(f" ({mark})" for mark in ("dead", "alarms") if entry.get(mark))
        kept, turnover = entry.get("kept"), entry.get("turnover")
        bold = "**" if entry["name"] == best else ""
        lines.append(
            [
                f"{bold}{entry['name']}{bold}{marks}",
                f"{entry.get('density', 1):g}",
                "–" if kept is None else f"{kept:,}",
                "–" if turnover is None else f"{100 * turnover:.1f} %",
                *(_percent(entry["metrics"], name) for name in names),
            ]
        )
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    cut = f"Cut at {most} steps a stage. " if (most := results.get("max_steps")) else ""
    return f"{table}\n\n{cut}Accuracies in percent, ± half of a 95 % interval."


def _percent(metrics: Mapping[str, Any], name: str) -> str:
    if name not in metrics:
        return "–"
    value = f"{100 * metrics[name]:.1f}"
    low, high = metrics.get(f"{name}_interval", (0, 0))
    return f"{value} ± {50 * (high - low):.1f}" if low < high else value


def _colour(pruner: str) -> str:
    """A pruner's colour, the same in all runs; of those that are not known, two may have one."""
    return _COLOURS.get(pruner) or _SPARE[zlib.crc32(pruner.encode()) % len(_SPARE)]


def _labels(results: Mapping[str, Any]) -> dict[str, str]:
    """The tags that runs of all kinds are grouped by."""
    labels = {"recipe": recipe_of(results), "seed": results.get("seed")}
    return {key: str(value) for key, value in labels.items() if value is not None}


def _seed(results: Mapping[str, Any]) -> str:
    return f", seed {results['seed']}" if "seed" in results else ""


def _components(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The registered names of the recipe's components, as far as they are known."""
    sections = {"objective": "objective", "dataset": "data", "model": "model"}
    return {key: recipe[name]["name"] for key, name in sections.items() if recipe.get(name)}


def _known(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: document[key] for key in keys if document.get(key) is not None}
