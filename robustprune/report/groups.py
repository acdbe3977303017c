"""Runs of one recipe, side by side: means over their seeds; and what recipes differ in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, takewhile
from typing import Any, NamedTuple

from robustprune.errors import UsageError
from robustprune.evaluators import registry
from robustprune.evaluators.accuracy import measured
from robustprune.evaluators.base import Evaluator
from robustprune.report.estimates import Estimate, estimate
from robustprune.report.runs import Network, Paper, Run
from robustprune.tracking.layout import flatten

_MOST = 4  # densities that a reader can compare, panel by panel or by the style of a line

# what it is called, where it ran and was recorded, and what a mean is taken over
_NOT_RECIPE = ("name", "seed", "compute.device", "compute.threads", "data.root", "data.download")


class Style(NamedTuple):
    """The colour of a variant, and a marker that tells it apart where colours do not."""

    colour: str
    marker: str


# Okabe, Ito 2008, *Color Universal Design*; without its yellow, which is too pale for a line
_KNOWN = {
    "dense": Style("#000000", "s"),
    "hydra": Style("#0072B2", "o"),
    "magnitude": Style("#D55E00", "^"),
    "random": Style("#767676", "v"),
}
_SPARE = [
    Style(colour, marker)  # thirty, of which the first five differ in both
    for colour, marker, _ in zip(
        cycle(["#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255"]), cycle("DPXp*<"), range(30)
    )
]


def styles(variants: Iterable[str]) -> dict[str, Style]:
    """Return a style for each variant: those known have theirs, the others spare ones in turn."""
    wanted = set(variants)
    others = dict(zip(sorted(wanted - _KNOWN.keys()), cycle(_SPARE), strict=False))
    return {name: style for name, style in _KNOWN.items() if name in wanted} | others


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only."""

    label: str
    """The recipes' name, or what their names have in common, unique in a report."""
    runs: tuple[Run, ...]
    """At least one, by seed."""
    styles: dict[str, Style]
    """Style of every variant on the page, so that a colour means one thing on all of it."""

    @cached_property
    def networks(self) -> list[Network]:
        """Each network once, in the order of the runs; its entry in the first run that has it."""
        every = [network for run in self.runs for network in run.results.networks]
        names = dict.fromkeys(network.name for network in every)
        return [self.entries(name)[0] for name in names]

    @cached_property
    def metrics(self) -> dict[str, bool]:
        """Its metrics in the order they were measured, and which are accuracies."""
        return measured([n.metrics for run in self.runs for n in run.results.networks])

    @cached_property
    def numbers(self) -> dict[str, bool]:
        """Its metrics, then all else that is known of its networks, and which are fractions."""
        found = [name for run in self.runs for n in run.results.networks for name in n.numbers]
        return self.metrics | {name: name == "turnover" for name in dict.fromkeys(found)}

    @cached_property
    def evaluators(self) -> list[Evaluator]:
        """The recipe's evaluators, without the user's own: a report runs no code of a recipe."""
        found = []
        for document in self.runs[0].results.params.evaluate:
            fields = dict(document)
            with suppress(UsageError, TypeError):
                found.append(registry.create(str(fields.pop("name", "")), **fields))
        return found

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
        """The paper's numbers, if the recipe cites one."""
        return self.runs[0].results.params.paper

    @property
    def seeds(self) -> str:
        """Its seeds: ``0, 1, 2``."""
        return ", ".join(str(run.results.seed) for run in self.runs)

    @property
    def title(self) -> str:
        """Its label, runs and seeds, in words."""
        several = "s" if len(self.runs) > 1 else ""
        return f"{self.label}: {len(self.runs)} run{several}, seed{several} {self.seeds}"

    def entries(self, network: str) -> list[Network]:
        """Return a network's entry in each run that has it."""
        return [n for run in self.runs for n in run.results.networks if n.name == network]

    def dead(self, network: str) -> str:
        """Return what is put behind a network's name: `` (2 dead)`` of its runs, if any is."""
        entries = self.entries(network)
        count = sum(entry.dead is not None for entry in entries)
        return f" ({count} dead)" if 0 < count < len(entries) else " (dead)" if count else ""

    def styles_of(self, variants: Iterable[str]) -> dict[str, Style]:
        """Return the styles of some variants, in the order in which every figure has them."""
        wanted = set(variants)
        return {variant: style for variant, style in self.styles.items() if variant in wanted}

    def at(self, density: float) -> dict[str, str]:
        """Return the names of the networks at a density, by variant."""
        pruned = [n for n in self.networks if n.variant != "dense"]
        return {n.variant: n.name for n in pruned if n.density == density}

    def estimate(self, network: str, metric: str) -> Estimate | None:
        """Return a metric or another number of a network, over all runs that measured it."""
        return estimate([entry.metrics | entry.numbers for entry in self.entries(network)], metric)


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Return the runs by recipe, in the order given.

    A recipe is what its options are, whatever it is called: those of a sweep over seeds have a
    name each. The same recipe and seed twice makes two groups.
    """
    sets: dict[tuple[str, int], list[Run]] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for run in runs:
        said = {key: value for key, value in _options(run).items() if value is not None}
        recipe = json.dumps(said, sort_keys=True)  # null, as a later version may write, is not said
        sets.setdefault((recipe, seen[recipe, run.results.seed]), []).append(run)
        seen[recipe, run.results.seed] += 1
    ordered = [sorted(members, key=lambda run: run.results.seed) for members in sets.values()]
    papers = [paper for run in runs if (paper := run.results.params.paper)]
    palette = styles(
        ["dense"]
        + [network.variant for run in runs for network in run.results.networks]
        + [name for paper in papers for m in paper.metrics or {} for name in paper.points(m)]
    )
    names = [_name(members) for members in ordered]
    for suffix in (" ({0.name})", " #{1}"):  # where a name stands twice
        names = [
            name if names.count(name) == 1 else name + suffix.format(members[0], place)
            for place, (name, members) in enumerate(zip(names, ordered, strict=True), start=1)
        ]
    return [Group(n, tuple(s), palette) for n, s in zip(names, ordered, strict=True)]


def _name(runs: Sequence[Run]) -> str:
    """Return the recipes' one name, or what their names share but for the seed of a sweep."""
    names = [run.results.recipe for run in runs]
    if len(set(names)) == 1:
        return names[0]
    stems = [
        re.sub(rf"[-_.]seed[-_.]?{run.results.seed}(?!\d)", "", name)
        for run, name in zip(runs, names, strict=True)
    ]
    first, last = min(stems), max(stems)  # what these two share, all of them do
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in shared).rstrip("-_.") or first


def differences(runs: Mapping[str, Run]) -> dict[str, dict[str, list[str]]]:
    """Return the options in which some runs differ; their names only if nothing else does.

    An evaluator or a pruner that a recipe does not have at all is one difference, not many. An
    option that is null in one and absent in another, as of two versions, is none.

    Args:
        runs: by what they are to be called.

    Returns:
        By option (``prune.optimizer.lr``, ``evaluate.pgd``) each value, as JSON or ``absent``, and
        whose it is.
    """
    recipes = {label: _options(run) for label, run in runs.items()}
    parts = {label: _parts(run) for label, run in runs.items()}
    for label, own in parts.items():
        for part, options in own.items():
            if not all(part in others for others in parts.values()):
                rest = {k: v for k, v in recipes[label].items() if not k.startswith(f"{part}.")}
                short = {k: v for k, v in options.items() if v not in (None, [], {})}
                recipes[label] = {**rest, part: short}
    names = {label: {"name": run.recipe.get("name")} for label, run in runs.items()}
    return _differing(recipes) or _differing(names)


def _differing(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for key in dict.fromkeys(key for recipe in recipes.values() for key in recipe):
        if all(recipe.get(key) is None for recipe in recipes.values()):
            continue
        for label, recipe in recipes.items():
            text = json.dumps(recipe[key], ensure_ascii=False) if key in recipe else "absent"
            found.setdefault(key, {}).setdefault(text, []).append(label)
    return {key: values for key, values in found.items() if len(values) > 1}


def _options(run: Run) -> dict[str, Any]:
    """Flatten what makes two runs runs of one recipe: not its place, nor its name.

    The parts in a list go by their names, so that order and number do not matter.
    """
    recipe = {k: v for k, v in run.recipe.items() if k not in ("evaluate", "tracking", "paper")}
    recipe["prune"] = {k: v for k, v in (recipe.get("prune") or {}).items() if k != "methods"}
    cut = {} if run.results.max_steps is None else {"max_steps": run.results.max_steps}
    options = flatten(recipe | _parts(run))
    return {key: value for key, value in options.items() if key not in _NOT_RECIPE} | cut


def _parts(run: Run) -> dict[str, dict[str, Any]]:
    """Return evaluators and pruners by their place and label or name, ``evaluate.pgd``."""
    params = run.results.params
    methods = (params.prune or {}).get("methods")
    items = [("evaluate", part) for part in params.evaluate]
    items += [("prune.methods", part) for part in methods or [] if isinstance(part, dict)]
    found: dict[str, dict[str, Any]] = {}
    for place, part in items:
        name = f"{place}.{part.get('label') or part.get('name')}"
        while name in found:
            name += "'"
        found[name] = part
    return found
