"""Runs of one recipe, side by side: the seeds of a mean."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from robustprune.evaluators.accuracy import measured
from robustprune.report.documents import Network, Paper
from robustprune.report.estimates import Estimate, estimate
from robustprune.report.looks import Look, looks
from robustprune.report.options import options
from robustprune.report.runs import Run

_MOST = 4  # densities that a reader can compare, panel by panel or by the style of a line


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only.

    Attributes:
        label: the recipes' name, or what their names have in common, unique in a report.
        runs: at least one, by seed.
        looks: of every variant on the page, so that a colour means one thing on all of it.
    """

    label: str
    runs: tuple[Run, ...]
    looks: dict[str, Look]

    @cached_property
    def networks(self) -> list[Network]:
        """Each network once, in the order of the runs; its entry in the first run that has it."""
        found: dict[str, Network] = {}
        for run in self.runs:
            for network in run.results.networks:
                found.setdefault(network.name, network)
        return list(found.values())

    @cached_property
    def metrics(self) -> dict[str, bool]:
        """Its metrics in the order they were measured, and which are accuracies."""
        return measured([n.metrics for run in self.runs for n in run.results.networks])

    @property
    def variants(self) -> list[str]:
        """What found masks, as the recipe labels it, without the dense network."""
        return list(dict.fromkeys(n.variant for n in self.networks if n.variant != "dense"))

    @property
    def densities(self) -> list[float]:
        """The densities of the pruned networks, the largest first."""
        pruned = {n.density for n in self.networks if n.variant != "dense"}
        return sorted(pruned, reverse=True)

    @property
    def few(self) -> list[float]:
        """Those that have a panel each: up to four, of more the ends and the middle."""
        found = self.densities
        return found if len(found) <= _MOST else [found[0], found[len(found) // 2], found[-1]]

    @property
    def paper(self) -> Paper | None:
        """What the paper reports, if the recipe cites one."""
        return self.runs[0].results.params.paper

    @property
    def seeds(self) -> str:
        """Its seeds: ``0, 1, 2``."""
        return ", ".join(str(run.results.seed) for run in self.runs)

    def entries(self, network: str) -> list[Network]:
        """What each run that has this network says of it."""
        return [found for run in self.runs if (found := run.network(network)) is not None]

    def looks_of(self, variants: Iterable[str]) -> dict[str, Look]:
        """The looks of some variants, in the order in which every figure has them."""
        wanted = set(variants)
        return {variant: look for variant, look in self.looks.items() if variant in wanted}

    def named(self, variant: str, density: float) -> Network | None:
        """The network of a variant at a density."""
        same = (n for n in self.networks if n.variant == variant and n.density == density)
        return next(same, None)

    def estimate(self, network: str, metric: str) -> Estimate | None:
        """A metric of a network, over all runs that measured it."""
        return estimate([entry.metrics for entry in self.entries(network)], metric)


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs by recipe, in the order given. The same recipe and seed twice makes two groups.

    A recipe is what its options are, whatever it is called: those of a sweep over seeds have a
    name each. Where one seed stands twice, runs whose names fit together stay together.
    """
    found: list[tuple[str, list[Run]]] = []
    for run in runs:
        _join(found, f"{_key(run)} {_stem(run)}", [run])
    recipes: list[tuple[str, list[Run]]] = []
    for _, members in found:
        _join(recipes, _key(members[0]), members)
    sets = [sorted(members, key=lambda run: run.results.seed) for _, members in recipes]
    palette = looks(_variants(runs))
    return [Group(label, tuple(s), palette) for label, s in zip(_labels(sets), sets, strict=True)]


def _join(sets: list[tuple[str, list[Run]]], key: str, runs: list[Run]) -> None:
    """Add runs to the first set of this key that has none of their seeds, or as a new one."""
    seeds = {run.results.seed for run in runs}
    for other, members in sets:
        if other == key and seeds.isdisjoint(member.results.seed for member in members):
            members.extend(runs)
            return
    sets.append((key, list(runs)))


def _variants(runs: Sequence[Run]) -> Iterator[str]:
    """Everything that a figure may draw: what was run, and what papers report."""
    yield "dense"
    for run in runs:
        yield from (network.variant for network in run.results.networks)
        paper = run.results.params.paper
        for metric in (paper.metrics or {}) if paper else {}:
            yield from paper.points(metric) if paper else ()


def _key(run: Run) -> str:
    return json.dumps(options(run), sort_keys=True)


def _stem(run: Run) -> str:
    """The recipe's name without its seed: ``a-epochs-2`` of a sweep's ``a-seed-0-epochs-2``."""
    return re.sub(rf"[-_.]seed[-_.]?{run.results.seed}(?!\d)", "", run.results.recipe)


def _name(runs: Sequence[Run]) -> str:
    """What the runs' recipes are called: their one name, or what their names have in common."""
    names = {run.results.recipe for run in runs}
    stems = sorted(set(map(_stem, runs)))
    if len(names) == 1:
        return runs[0].results.recipe
    common = "".join(letters[0] for letters in takewhile(_alike, zip(*stems, strict=False)))
    return stems[0] if len(stems) == 1 else common.rstrip("-_.") or stems[0]


def _alike(letters: tuple[str, ...]) -> bool:
    return len(set(letters)) == 1


def _labels(sets: Sequence[Sequence[Run]]) -> list[str]:
    """The recipes' names; with the first run's where one stands twice, numbered if need be."""
    names = [_name(runs) for runs in sets]
    recipes = Counter(names)
    labels = [
        name if recipes[name] == 1 else f"{name} ({runs[0].name})"
        for name, runs in zip(names, sets, strict=True)
    ]
    counts = Counter(labels)
    seen: Counter[str] = Counter()
    unique = []
    for label in labels:
        seen[label] += 1
        unique.append(label if counts[label] == 1 else f"{label} #{seen[label]}")
    return unique
