"""Tables: the runs, the final metrics of each network, and what recipes differ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustprune.errors import UsageError, nearest
from robustprune.messages import left_dense
from robustprune.report.estimates import Spread
from robustprune.report.groups import Group, differences

NONE = "–"


@dataclass(frozen=True)
class Table:
    """Rows of text below a caption, and a note below them; the first cell of a row names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def metrics_table(group: Group) -> Table:
    """Return a row per network: what is kept, and each metric, the paper's beside it."""
    cells = {
        "network": [network.name + group.dead(network.name) for network in group.networks],
        "density": [f"{network.density:g}" for network in group.networks],
        "kept": [NONE if n.kept is None else f"{n.kept:,}" for n in group.networks],
        "turnover (%)": [_turnover(group, network.name) for network in group.networks],
    }
    for metric, fraction in group.metrics.items():
        cells[headed(metric, fraction)] = [
            _value(group, n.name, metric, fraction=fraction) for n in group.networks
        ]
        if group.paper and metric in (group.paper.metrics or {}):
            cited = (group.paper.metrics or {})[metric]
            cells[f"{metric}, paper (%)"] = [
                f"{100 * cited[n.name]:.1f}" if n.name in cited else NONE for n in group.networks
            ]
    measured = f"measured on {_images(group)}" if group.metrics else "no evaluator has run"
    dense = left_dense({network.name: network.left_dense for network in group.networks})
    note = " ".join(f"{text[0].upper()}{text[1:]}." for text in (measured, *dense))
    return Table(group.title, list(cells), list(zip(*cells.values(), strict=True)), note)


def measures_table(group: Group) -> Table:
    """Return a row per network: its size and operations, as far as they were measured."""
    names = [name for name in group.numbers if "/" in name]
    rows = [
        [network.name]
        + [_value(group, network.name, n, fraction=False, spread="none") for n in names]
        for network in group.networks
        if any("/" in name for name in network.numbers)
    ]
    columns = [name.replace("/", " ").replace("_", " ") for name in names]
    return Table(f"{group.label}: measures", ["network", *columns], rows)


def comparison(
    groups: Sequence[Group], metrics: Sequence[str] = (), spread: Spread = "interval"
) -> Table:
    """Return the same for many recipes: networks of one name stand below each other.

    Variants are in the order of the recipes, and their networks from the densest on.
    """
    shown = chosen(groups, metrics)
    columns = ["network", "recipe", "runs", "turnover (%)", *map(headed, shown, shown.values())]
    every = {network.name: network for group in groups for network in group.networks}
    variants = list(dict.fromkeys(network.variant for network in every.values()))
    names = sorted(every, key=lambda n: (variants.index(every[n].variant), -every[n].density))
    rows = [
        [
            name + group.dead(name),
            group.label,
            str(len(group.entries(name))),
            _turnover(group, name),
        ]
        + [_value(group, name, metric, fraction=f, spread=spread) for metric, f in shown.items()]
        for name in names
        for group in groups
        if group.entries(name)
    ]
    return Table("final metrics", columns, rows)


def chosen(groups: Sequence[Group], names: Sequence[str]) -> dict[str, bool]:
    """Return the metrics and other numbers of these names, and which are fractions.

    Without names all metrics.

    Raises:
        UsageError: no network has such a number.
    """
    known = {name: fraction for group in groups for name, fraction in group.numbers.items()}
    if unknown := [name for name in names if name not in known]:
        hint = nearest(unknown[0], known)
        raise UsageError(f"--metrics: no network of these runs has a number '{unknown[0]}'.{hint}")
    metrics = dict.fromkeys(name for group in groups for name in group.metrics)
    return {name: known[name] for name in names or metrics}


def headed(metric: str, fraction: bool) -> str:
    """Return the head of a metric's column."""
    return f"{metric} (%)" if fraction else metric


def differences_table(groups: Sequence[Group]) -> Table:
    """Return a row for each value of each option in which the recipes differ."""
    found = differences({group.label: group.runs[0] for group in groups})
    rows = [
        [option, value, ", ".join(labels)]
        for option, values in found.items()
        for value, labels in values.items()
    ]
    return Table("differences between the recipes", ["option", "value", "recipes"], rows)


def intervals(groups: Sequence[Group]) -> str:
    """Return what the accuracies' intervals are over; empty if none was measured."""
    measured = [group for group in groups if any(group.metrics.values())]
    kinds = {
        "over the seeds": any(len(group.runs) > 1 for group in measured),
        "over the images of one run": any(len(group.runs) == 1 for group in measured),
    }
    return ", or ".join(kind for kind, there in kinds.items() if there)


def runs_table(groups: Sequence[Group]) -> Table:
    """Return a row per run: its recipe, where it ran, and whether it is complete and sound."""
    columns = ["recipe", "seed", "run", "networks", "state", "device", "torch"]
    rows = [
        [
            group.label,
            str(run.results.seed),
            run.name,
            str(len(run.results.networks)),
            run.state,
            *(str(run.results.environment.get(key, NONE)) for key in ("device", "torch")),
        ]
        for group in groups
        for run in group.runs
    ]
    return Table("runs", columns, rows)


def _value(
    group: Group, network: str, metric: str, *, fraction: bool, spread: Spread = "interval"
) -> str:
    found = group.estimate(network, metric)
    return " ".join(filter(None, found.texts(fraction=fraction, spread=spread))) if found else NONE


def _turnover(group: Group, network: str) -> str:
    return _value(group, network, "turnover", fraction=True, spread="none")


def _images(group: Group) -> str:
    counts: dict[str, list[str]] = {}
    for metric in group.metrics:
        found = next((e for n in group.networks if (e := group.estimate(n.name, metric))), None)
        counts.setdefault(str(found.images) if found else NONE, []).append(metric)
    if len(counts) == 1:
        return f"{next(iter(counts))} images"
    return "; ".join(f"{n} images: {', '.join(names)}" for n, names in counts.items())
