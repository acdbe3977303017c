"""From several recipes and ``--sweep`` to the runs that are meant."""

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
    paths: Sequence[Path], *, overrides: Sequence[str], sweeps: Sequence[str]
) -> list[Variant]:
    """Return every recipe with every combination of the sweeps' values, all of them valid.

    A sweep, ``key=[value, …]``, makes its value part of the recipe's name, e.g.
    ``quickstart-epochs-2``; overrides, ``key=value``, are for all of them.

    Raises:
        UsageError: a sweep, a recipe or a variant of one is at fault, or two would be one run.
    """
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
