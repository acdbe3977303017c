"""Tables: the runs, the final metrics of each network, and what recipes differ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustprune.messages import left_dense
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
        "network": [_named(group, network.name) for network in group.networks],
        "density": [f"{network.density:g}" for network in group.networks],
        "kept": [NONE if n.kept is None else f"{n.kept:,}" for n in group.networks],
        "turnover (%)": [_turnover(group, network.name) for network in group.networks],
    }
    for metric, fraction in group.metrics.items():
        head = f"{metric} (%)" if fraction else metric
        cells[head] = [_value(group, n.name, metric, fraction=fraction) for n in group.networks]
        if group.paper and metric in (group.paper.metrics or {}):
            cited = (group.paper.metrics or {})[metric]
            cells[f"{metric}, paper (%)"] = [
                f"{100 * cited[n.name]:.1f}" if n.name in cited else NONE for n in group.networks
            ]
    several = "s" if len(group.runs) > 1 else ""
    caption = f"{group.label}: {len(group.runs)} run{several}, seed{several} {group.seeds}"
    measured = f"measured on {_images(group)}" if group.metrics else "no evaluator has run"
    dense = left_dense({network.name: network.left_dense for network in group.networks})
    note = " ".join(f"{text[0].upper()}{text[1:]}." for text in (measured, *dense))
    return Table(caption, list(cells), list(zip(*cells.values(), strict=True)), note)


def measures_table(group: Group) -> Table:
    """Return a row per network: its size and operations, as far as they were measured."""
    found = {
        network.name: {
            f"{measure} {name}": f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            for measure, values in network.measures.items()
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        for network in group.networks
    }
    columns = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = [[n, *(v.get(c, NONE) for c in columns)] for n, v in found.items() if v]
    return Table(f"{group.label}: measures", ["network", *columns], rows)


def comparison(groups: Sequence[Group]) -> Table:
    """Return the same for many recipes: networks of one name stand below each other."""
    metrics = {name: f for group in groups for name, f in group.metrics.items()}
    columns = ["network", "recipe", "runs", "turnover (%)"]
    columns += [f"{name} (%)" if fraction else name for name, fraction in metrics.items()]
    names = dict.fromkeys(network.name for group in groups for network in group.networks)
    rows = [
        [_named(group, name), group.label, str(len(group.entries(name))), _turnover(group, name)]
        + [_value(group, name, metric, fraction=f) for metric, f in metrics.items()]
        for name in names
        for group in groups
        if group.entries(name)
    ]
    return Table("final metrics", columns, rows)


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


def _named(group: Group, network: str) -> str:
    """Return a network's name, and the number of runs in which it is dead."""
    entries = group.entries(network)
    count = sum(entry.dead is not None for entry in entries)
    if not count:
        return network
    return f"{network} (dead)" if count == len(entries) else f"{network} ({count} dead)"


def _value(group: Group, network: str, metric: str, *, fraction: bool) -> str:
    found = group.estimate(network, metric)
    if found is None:
        return NONE
    return found.percent() if fraction else f"{found.value:.4g}"


def _turnover(group: Group, network: str) -> str:
    values = [e.turnover for e in group.entries(network) if e.turnover is not None]
    return f"{100 * sum(values) / len(values):.1f}" if values else NONE


def _images(group: Group) -> str:
    counts: dict[str, list[str]] = {}
    for metric in group.metrics:
        found = next((e for n in group.networks if (e := group.estimate(n.name, metric))), None)
        counts.setdefault(str(found.images) if found else NONE, []).append(metric)
    if len(counts) == 1:
        return f"{next(iter(counts))} images"
    return "; ".join(f"{n} images: {', '.join(names)}" for n, names in counts.items())
