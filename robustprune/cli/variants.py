"""From several recipes, ``--sweep`` and ``--seeds`` to the runs that are meant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from robustprune.errors import UsageError
from robustprune.recipe import load_recipe
from robustprune.recipe.document import dump
from robustprune.recipe.reading import NotYamlError, read_yaml

if TYPE_CHECKING:  # torch comes with it, and who wrote no YAML need not wait for it
    from robustprune.recipe import Recipe

_MOST = 1000


class Variant(NamedTuple):
    """One run: a recipe as it is, or changed by the values that a sweep gives it."""

    path: Path
    overrides: tuple[str, ...]
    recipe: Recipe


def variants(
    paths: Sequence[Path],
    *,
    overrides: Sequence[str],
    sweeps: Sequence[str],
    seeds: str | None = None,
) -> list[Variant]:
    """Return every recipe with every combination of the sweeps' values, all of them valid.

    A sweep, ``key=[value, …]``, makes its value part of the recipe's name, e.g.
    ``quickstart-epochs-2``; so do seeds, ``0..4,7``. Overrides, ``key=value``, are for all of them.

    Raises:
        UsageError: a sweep, a recipe or a variant of one is at fault, or two would be one run.
    """
    if seeds is not None:
        if any(sweep.partition("=")[0].strip() == "seed" for sweep in sweeps):
            raise UsageError("--seeds and --sweep seed=[…] say the same. Leave one of them out.")
        sweeps = [*sweeps, f"seed={_seeds(seeds)}"]
    for sweep, override in itertools.product(sweeps, overrides):
        key, changed = (one.partition("=")[0].strip() for one in (sweep, override))
        if f"{changed}.".startswith(f"{key}."):
            given = "--seeds" if seeds is not None and key == "seed" else f"--sweep {key}"
            raise UsageError(f"--set {override}: {given} replaces it in every run. Leave one out.")
    combinations = list(itertools.product(*map(_points, sweeps)))
    if len(paths) * len(combinations) > _MOST:
        raise UsageError(f"--sweep: that is more than {_MOST} runs. Sweep over less.")
    found: dict[str, Variant] = {}
    for path, points in itertools.product(paths, combinations):
        changes = (*overrides, *(override for override, _ in points))
        recipe = load_recipe(path, changes)
        if points:
            changes += (f"name={recipe.name}{''.join(suffix for _, suffix in points)}",)
            recipe = load_recipe(path, changes)
        if recipe.name in found:
            raise UsageError(
                f"several runs would be called '{recipe.name}'. Give each recipe a name of its "
                "own, and each sweep other values."
            )
        found[recipe.name] = Variant(path, changes, recipe)
    return list(found.values())


def _seeds(text: str) -> list[int]:
    """Return the seeds of ``0..4,7``."""
    found: list[int] = []
    for part in text.split(","):
        shape = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part, re.ASCII)
        first, last = (int(shape[1]), int(shape[2] or shape[1])) if shape else (1, 0)
        if not first <= last < first + _MOST:
            raise UsageError(
                f"--seeds {text}: expected numbers and ranges of at most {_MOST} that grow, with "
                f"commas between them, e.g. 0..4 or 0,1,7; got '{part.strip()}'."
            )
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def _points(sweep: str) -> list[tuple[str, str]]:
    """Return the values of ``key=[value, …]``: each as an override, and as an ending of names."""
    key, equals, text = (part.strip() for part in sweep.partition("="))
    try:
        values = read_yaml(text).values
    except NotYamlError as error:
        raise UsageError(f"--sweep {sweep}: {error}") from None
    if not equals or not key or not isinstance(values, list) or not values:
        raise UsageError(f"--sweep {sweep}: expected key=[value, …], e.g. prune.epochs=[1, 2, 4].")
    points = []
    for number, value in enumerate(values, start=1):
        text = dump(value, flow=True)
        # of a list or a part with options, its number
        word = number if isinstance(value, dict | list) else re.sub(r"[^\w.-]+", "_", text)
        points.append((f"{key}={text}", f"-{key.rpartition('.')[2]}-{word}"))
    return points
