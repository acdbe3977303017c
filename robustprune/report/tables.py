"""The final metrics of each network, and what recipes differ in, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from robustprune.report.documents import Network
from robustprune.report.groups import Group
from robustprune.report.options import differences
from robustprune.report.sections import Table
from robustprune.sentences import left_dense

NONE = "–"


def metrics_table(group: Group) -> Table:
    """A row a network: what is kept, each metric with its interval, the paper's beside it."""
    cited = [m for m in group.metrics if (group.paper and m in (group.paper.metrics or {}))]
    columns = ["network", "density", "kept", "turnover (%)"]
    for metric, fraction in group.metrics.items():
        columns.append(f"{metric} (%)" if fraction else metric)
        columns.extend([f"{metric}, paper (%)"] if metric in cited else [])
    rows = [_row(group, network, cited) for network in group.networks]
    caption = f"{group.label}: {_many(len(group.runs), 'run')}, {_seeds(group)}"
    measured = f"measured on {_images(group)}" if group.metrics else "no evaluator has judged them"
    dense = left_dense({network.name: network.left_dense for network in group.networks})
    note = " ".join(f"{text[0].upper()}{text[1:]}." for text in (measured, *dense))
    return Table(caption, columns, rows, note=note)


def comparison(groups: Sequence[Group]) -> Table:
    """The same for many recipes: networks of one name stand below each other."""
    metrics = {name: f for group in groups for name, f in group.metrics.items()}
    columns = ["network", "recipe", "runs", "turnover (%)"]
    columns += [f"{name} (%)" if fraction else name for name, fraction in metrics.items()]
    names = dict.fromkeys(network.name for group in groups for network in group.networks)
    rows = [
        [_called(group, name), group.label, str(len(group.entries(name))), _turnover(group, name)]
        + [_value(group, name, metric, fraction=f) for metric, f in metrics.items()]
        for name in names
        for group in groups
        if group.entries(name)
    ]
    return Table("final metrics", columns, rows)


def differences_table(groups: Sequence[Group]) -> Table:
    """A row for each value of each option in which the recipes differ."""
    found = differences({group.label: group.runs[0] for group in groups})
    rows = [
        [difference.option, value, ", ".join(labels)]
        for difference in found
        for value, labels in difference.values.items()
    ]
    return Table("differences between the recipes", ["option", "value", "recipes"], rows)


def intervals(groups: Sequence[Group]) -> str:
    """What the accuracies' intervals are over, in words; empty if none was measured."""
    measured = [group for group in groups if any(group.metrics.values())]
    kinds = {
        "over the seeds": any(len(group.runs) > 1 for group in measured),
        "over the images of one run": any(len(group.runs) == 1 for group in measured),
    }
    return ", or ".join(kind for kind, there in kinds.items() if there)


def runs_table(groups: Sequence[Group]) -> Table:
    """A row a run: what it is, where it ran, and whether it is whole and sound."""
    columns = ["recipe", "seed", "run", "networks", "state", "device", "torch"]
    rows = [
        [
            group.label,
            str(run.results.seed),
            run.name,
            str(len(run.results.networks)),
            run.state,
            str(run.results.environment.get("device", NONE)),
            str(run.results.environment.get("torch", NONE)),
        ]
        for group in groups
        for run in group.runs
    ]
    return Table("runs", columns, rows)


def _row(group: Group, network: Network, cited: Sequence[str]) -> list[str]:
    kept = NONE if network.kept is None else f"{network.kept:,}"
    cells = [
        _called(group, network.name),
        f"{network.density:g}",
        kept,
        _turnover(group, network.name),
    ]
    for metric, fraction in group.metrics.items():
        cells.append(_value(group, network.name, metric, fraction=fraction))
        if metric in cited and group.paper:
            value = group.paper.value(metric, network.name)
            cells.append(NONE if value is None else f"{100 * value:.1f}")
    return cells


def _called(group: Group, network: str) -> str:
    """The network's name, and in how many runs it gives one answer for all images."""
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
    """On how many images each accuracy was measured; metrics with equal numbers share a mention."""
    counts: dict[str, list[str]] = {}
    for metric in group.metrics:
        found = next((e for n in group.networks if (e := group.estimate(n.name, metric))), None)
        counts.setdefault(str(found.images) if found else NONE, []).append(metric)
    if len(counts) == 1:
        return f"{next(iter(counts))} images"
    return "; ".join(f"{n} images: {', '.join(names)}" for n, names in counts.items())


def _seeds(group: Group) -> str:
    return f"{'seed' if len(group.runs) == 1 else 'seeds'} {group.seeds}"


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
