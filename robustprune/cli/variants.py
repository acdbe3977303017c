"""From several recipes and ``--sweep`` to the runs that are meant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustprune.errors import UsageError
from robustprune.recipe import Recipe, load_recipe

_MOST = 1000


class Variant(NamedTuple):
    """One run: a recipe as it is, or changed by the values that a sweep gives it."""

    path: Path
    overrides: tuple[str, ...]
    recipe: Recipe


def variants(
    paths: Sequence[Path], *, overrides: Sequence[str], sweeps: Sequence[str]
) -> list[Variant]:
    """Every recipe with every combination of the sweeps' values, all of them valid.

    A sweep's value becomes part of the recipe's name, e.g. ``quickstart-epochs-2``.

    Args:
        paths: recipes.
        overrides: ``key=value``, for all of them.
        sweeps: ``key=[value, …]``.

    Raises:
        UsageError: a sweep, a recipe or a variant of one is at fault, or two would be one run.
    """
    axes = [_axis(sweep) for sweep in sweeps]
    combinations = list(itertools.product(*axes))
    if len(paths) * len(combinations) > _MOST:
        raise UsageError(f"--sweep: that is more than {_MOST} runs. Sweep over less.")
    found = [
        _variant(path, overrides, combination) for path in paths for combination in combinations
    ]
    names = [variant.recipe.name for variant in found]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(
            f"{names.count(twice[0])} runs would be called '{twice[0]}'. Give each recipe a name "
            "of its own, and each sweep other values."
        )
    return found


class _Point(NamedTuple):
    """One value of a sweep."""

    override: str
    suffix: str


def _variant(path: Path, overrides: Sequence[str], points: Sequence[_Point]) -> Variant:
    changes = (*overrides, *(point.override for point in points))
    recipe = load_recipe(path, changes)
    if points:
        changes += (f"name={recipe.name}{''.join(point.suffix for point in points)}",)
        recipe = load_recipe(path, changes)
    return Variant(path, changes, recipe)


def _axis(sweep: str) -> list[_Point]:
    """The points of ``key=[value, …]``."""
    from robustprune.recipe.document import dump_flow
    from robustprune.recipe.reading import NotYamlError, read_yaml

    key, equals, text = sweep.partition("=")
    try:
        reading = read_yaml(text)
    except NotYamlError as error:
        raise UsageError(f"--sweep {sweep}: the values are not YAML: {error}.") from None
    values = reading.values
    if not equals or not key.strip() or not isinstance(values, list) or not values:
        raise UsageError(f"--sweep {sweep}: expected key=[value, …], e.g. prune.epochs=[1, 2, 4].")
    last = key.strip().rpartition(".")[2]
    return [
        _Point(f"{key.strip()}={dump_flow(value)}", f"-{last}-{_word(value, number)}")
        for number, value in enumerate(values, start=1)
    ]


def _word(value: Any, number: int) -> str:
    """A value as part of a name; of a list or a part with options, its ``number`` in the sweep."""
    if isinstance(value, dict | list):
        return str(number)
    return re.sub(r"[^\w.-]+", "_", str(value).lower() if isinstance(value, bool) else str(value))
