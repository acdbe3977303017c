"""Differences between methods and a baseline, paired by seed and by image, and their tests.

Over seeds: Student's paired t-test, about what another training would give. (An exact sign-flip
test of n seeds cannot go below 2/2ⁿ: with five seeds never below 0.06.) Over images: McNemar's
exact test, about what other images would give these very networks. Of several seeds, an image
counts once: for the method if more of its networks are right on it than of the baseline's.
Networks of one recipe err on the same images, so that counting each image anew for each seed would
find too much.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, ttest_rel  # type: ignore[attr-defined]

from robustprune.errors import UsageError, nearest
from robustprune.report.estimates import plain
from robustprune.report.groups import Group
from robustprune.report.paper import Cell, Sheet, blocks
from robustprune.report.runs import Run
from robustprune.report.tables import NONE, chosen

Wins = NDArray[np.int64]
"""``(images,)``: 1 where only the method is right, −1 where only the baseline is, else 0."""


@dataclass(frozen=True)
class Paired:
    """A method and the baseline, at one density and by one metric."""

    names: Mapping[str, Any]
    """Recipe, method, baseline, density and metric."""
    fraction: bool
    differences: Mapping[int, float]
    """Method less baseline, by seed."""
    wins: Mapping[int, Wins] = field(default_factory=dict)
    """By seed; empty where a run does not tell what became of each image."""

    @property
    def mean(self) -> float:
        """The mean difference over the seeds."""
        return statistics.fmean(self.differences.values())

    @property
    def error(self) -> float | None:
        """Its standard error; None of a single seed."""
        values = list(self.differences.values())
        return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None

    @property
    def over_seeds(self) -> float | None:
        """The two-sided p of the paired t-test; None where the differences do not vary."""
        return paired_t(list(self.differences.values()))

    def over_images(self, seed: int | None = None) -> tuple[int, int, float] | None:
        """Return for how many images the method wins and loses, and the two-sided exact p.

        ``seed`` None takes all seeds together. None is returned if images are not known.
        """
        chosen = [self.wins[seed]] if seed is not None and self.wins else [*self.wins.values()]
        return mcnemar(np.sum(chosen, axis=0)) if chosen else None


def paired_t(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the paired t-test; None of one difference, or of equal ones."""
    if np.ptp(differences) <= 1e-12 * max(1, np.max(np.abs(differences))):  # but for rounding
        return None
    return float(ttest_rel(differences, np.zeros(len(differences))).pvalue)


def mcnemar(wins: Wins) -> tuple[int, int, float]:
    """Return the numbers of images above and below 0, and the exact two-sided p that they tie."""
    better, worse = int(np.sum(wins > 0)), int(np.sum(wins < 0))
    count = better + worse
    return better, worse, float(binomtest(better, count).pvalue) if count else 1.0


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values as Holm's step-down procedure adjusts them for their number."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    found: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        found[place] = least = max(least, min(1.0, (len(known) - rank) * p))
    return found


def paired(groups: Sequence[Group], baseline: str, metrics: Sequence[str] = ()) -> list[Paired]:
    """Pair every network with the baseline's of its density, in its recipe or in another one.

    Args:
        groups: recipes over their seeds.
        baseline: the label of a pruner, ``dense``, or the label of a recipe, whose networks of the
            same name are then the baseline.
        metrics: those to pair; all if none is named.

    Raises:
        UsageError: there is no such baseline, or nothing to pair with it; or two runs were judged
            on different images, or by evaluators that differ.
    """
    wanted = chosen(groups, metrics)
    found = []
    for density, rows in blocks(groups).items():
        for group, network, method in rows:
            if (partner := _partner(groups, group, network, method, baseline, density)) is None:
                continue
            other, name = partner
            for metric, fraction in wanted.items():
                _check_alike(group, other, metric)
                if not (pairs := list(_pairs(group, network, other, name, metric))):
                    continue
                about = metric if fraction else _owner(metric, group.metrics)
                for ours, theirs, _ in pairs:
                    _check_images(pairs[0][0], network, ours, network, about)
                    _check_images(pairs[0][0], network, theirs, name, about)
                names = {"recipe": group.label, "method": method, "density": density}
                names |= {"baseline": baseline, "baseline_recipe": other.label, "metric": metric}
                differences = {run.results.seed: gain for run, _, gain in pairs}
                wins = _wins(pairs, network, name, metric) if fraction else {}
                found.append(Paired(names, fraction, differences, wins))
    if not found:
        known = {n.variant for g in groups for n in g.networks} | {g.label for g in groups}
        hint = " No other network of its density and seed has such a metric."
        hint = hint if baseline in known else nearest(baseline, known)
        raise UsageError(f"--paired: nothing can be paired with '{baseline}'.{hint}")
    return found


def _partner(
    groups: Sequence[Group], group: Group, network: str, method: str, baseline: str, density: float
) -> tuple[Group, str] | None:
    """Return the recipe and the name of a network's baseline; None if it is one itself."""
    for other in groups:
        if other.label == baseline:
            return None if other is group or not other.entries(network) else (other, network)
    for other in (group, *groups):
        name = "dense" if baseline == "dense" else other.at(density).get(baseline, "")
        if other.entries(name):
            return None if method == baseline else (other, name)
    return None


def _pairs(
    group: Group, network: str, other: Group, name: str, metric: str
) -> Iterator[tuple[Run, Run, float]]:
    """Give the runs of each seed that both have, and by how much the first one is better."""
    partners = {run.results.seed: run for run in other.runs}
    for run in group.runs:
        if (partner := partners.get(run.results.seed)) is not None:
            ours, theirs = run.number(network, metric), partner.number(name, metric)
            if ours is not None and theirs is not None:
                yield run, partner, ours - theirs


def _wins(
    pairs: Sequence[tuple[Run, Run, float]], network: str, name: str, metric: str
) -> dict[int, Wins]:
    """Return what became of each image, by seed; nothing if one run does not tell."""
    found, count = {}, pairs[0][0].images(network, metric)
    for run, partner, _ in pairs:
        ours, theirs = run.column(network, metric), partner.column(name, metric)
        if ours is None or theirs is None or not len(ours) == len(theirs) == count:
            return {}
        found[run.results.seed] = (ours > 0).astype(int) - (theirs > 0).astype(int)
    return found


def _owner(metric: str, known: Iterable[str]) -> str:
    """Return what a metric stands beside, ``pgd`` of ``pgd_norm_median``, or itself.

    Of a median the number of images is of those that have a finite entry, which networks differ in.
    """
    beside = (name for name in known if metric.startswith(f"{name}_"))
    return max(beside, key=len, default=metric)


def _check_images(first: Run, network: str, other: Run, name: str, metric: str) -> None:
    """Make sure that a metric of two networks is about the same images, as far as runs tell."""
    counts = first.images(network, metric), other.images(name, metric)
    tested = first.tested, other.tested
    if None not in counts and counts[0] != counts[1]:
        what = f"{counts[0]} and {counts[1]} of them"
    elif None not in tested:
        what = "of another test set" if tested[0] != tested[1] else ""
    else:
        labels = first.column(network, "label"), other.column(name, "label")
        shared = [c[: counts[0]] for c in labels if c is not None]
        what = "with other labels" if not all(np.array_equal(shared[0], c) for c in shared) else ""
    if what:
        raise UsageError(
            f"'{metric}' of {first.path / network} and of {other.path / name} is about different "
            f"images ({what}), which cannot be paired. Evaluate both on the same ones, or choose "
            "others with --metrics."
        )


def _check_alike(group: Group, other: Group, metric: str) -> None:
    """Make sure that two recipes mean the same by a metric."""
    one, two = (
        {e.metric: e.model_dump() | {"name": e.registered_name} for e in g.evaluators}
        for g in (group, other)
    )
    metric = metric if metric in one else _owner(metric, one.keys() & two.keys())
    one, two = one.get(metric, {}), two.get(metric, {})
    for key in sorted(one.keys() & two.keys() - {"batch_size", "samples"}):
        if one[key] != two[key]:
            raise UsageError(
                f"'{metric}' is not the same in {group.label} and in {other.label}: '{key}' is "
                f"{one[key]} and {two[key]}. Choose others with --metrics."
            )


def paired_records(pairs: Sequence[Paired]) -> list[dict[str, Any]]:
    """Return a record for each pair over all seeds, then for each seed; fractions as such."""
    found = []
    for pair, p_seeds, p_images in zip(pairs, *_adjusted(pairs), strict=True):
        whole = {"seed": "all", "difference": pair.mean, "standard_error": pair.error}
        whole |= {"seeds": len(pair.differences), "p_seeds": pair.over_seeds}
        whole |= {"p_seeds_holm": p_seeds, **_images(pair), "p_images_holm": p_images}
        none = {**pair.names, **dict.fromkeys(whole)}
        found.append(none | whole)
        for seed, difference in pair.differences.items():
            found.append(none | {"seed": seed, "difference": difference} | _images(pair, seed))
    return found


def _images(pair: Paired, seed: int | None = None) -> dict[str, Any]:
    counts = pair.over_images(seed) or (None, None, None)
    return dict(zip(("better", "worse", "p_images"), counts, strict=True))


def _adjusted(pairs: Sequence[Paired]) -> tuple[list[float | None], list[float | None]]:
    """Return the p-values over seeds and over images, adjusted for the number of pairs."""
    images = [pair.over_images() for pair in pairs]
    return holm([pair.over_seeds for pair in pairs]), holm([i[2] if i else None for i in images])


def paired_sheet(pairs: Sequence[Paired]) -> Sheet:
    """Return a row for each pair: the difference, in points, and both tests."""
    columns = ["density", "method", "metric", "difference", "seeds", "p seeds", "Holm"]
    columns += ["images better:worse", "p images", "Holm"]
    several = len({pair.names["recipe"] for pair in pairs}) > 1
    found: dict[float, list[list[Cell]]] = {}
    for pair, seeds, images in zip(pairs, *_adjusted(pairs), strict=True):
        form = (lambda x: f"{100 * x:.1f}") if pair.fraction else plain
        gain = ("+" if pair.mean > 0 else "") + form(pair.mean).replace("-", "−")
        beside = "" if pair.error is None else f"± {form(pair.error)}"
        names, counts = pair.names, pair.over_images()
        method = names["method"] + (f" ({names['recipe']})" if several else "")
        words = [f"{names['density']:g}", method, names["metric"]]
        tests = [str(len(pair.differences)), _p(pair.over_seeds), _p(seeds)]
        tests.append("{}:{}".format(*counts) if counts else NONE)
        tests += [_p(counts and counts[2]), _p(images)]
        row = [*map(Cell, words), Cell(gain, beside), *map(Cell, tests)]
        found.setdefault(names["density"], []).append(row)
    notes = [
        f"difference to {pairs[0].names['baseline']}, accuracies in points, mean over seeds ± its "
        "standard error",
        "p over seeds: paired t-test, about other trainings",
        "p over images: exact McNemar test, about other images and these very networks, where an "
        "image is better if more of the method's networks are right on it than of the baseline's",
        f"Holm: p adjusted for the {len(pairs)} rows shown, each test by itself",
    ]
    if not all(pair.wins for pair in pairs if pair.fraction):
        notes.append("runs without images.parquet have no test over images")
    return Sheet(columns, list(found.values()), 3, notes)


def _p(value: float | None) -> str:
    return NONE if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
