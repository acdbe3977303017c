"""YAML documents: read by one safe loader, overridden, and asked where things stand in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from robustprune.errors import Place, Problem, UsageError, nearest
from robustprune.recipe.reading import Keys, NotYamlError, read_yaml
from robustprune.sentences import shown

T = TypeVar("T")
_MOST_BYTES = 2**20
_STARTS = "expected 'key: value' lines such as 'name: …'. Start from a file in recipes/"


class Spot(NamedTuple):
    """Where a value was written."""

    source: str
    line: int


class Document:
    """A YAML mapping that knows the file and the line of each of its values.

    Attributes:
        source: the file's name, for messages.
        values: the plain document.
        problems: what is wrong with it as YAML, or with its overrides.
    """

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._overridden: dict[Keys, str] = {}
        try:
            reading = read_yaml(text)
        except NotYamlError as error:
            where = f"{source}:{error.line}" if error.line else source
            raise UsageError(f"{where}: this is not YAML: {error}.") from None
        self.values = reading.values
        if not isinstance(self.values, dict):
            raise UsageError(f"{source} is not a recipe: found {shown(self.values)}, {_STARTS}.")
        self._spots = {keys: Spot(source, line) for keys, line in reading.lines.items()}
        self._sources = [source]
        self.problems = self.located(reading.problems)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file.

        Raises:
            UsageError: it cannot be read, is not YAML, or is no mapping.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise UsageError(f"{path} is not a recipe: it is larger than 1 MiB.")
            return cls(str(path), content.decode("utf-8"))
        except OSError as error:
            near = _beside(path) if isinstance(error, FileNotFoundError) else ""
            raise UsageError(
                f"cannot read the recipe {path}: {error.strerror}.{near} Recipes that come with "
                "robustprune are in recipes/, e.g. recipes/quickstart.yaml."
            ) from None
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not a recipe: it is not UTF-8 text.") from None

    def extend(self, base: Document) -> None:
        """Put ``base`` below what stands here; see `merged`. Problems are those of both."""
        self.values = merged(base.values, self.values)
        kept = {keys: spot for keys, spot in base._spots.items() if _stands(self.values, keys)}
        self._spots = {**kept, **self._spots}
        self._sources = list(dict.fromkeys([*self._sources, *base._sources]))
        self.problems = [*base.problems, *self.problems]

    def override(self, assignment: str) -> None:
        """Apply one ``key.subkey.0=value``; the value is YAML.

        One that cannot be applied changes nothing and is noted in `problems`.
        """
        try:
            keys, value = _assignment(assignment)
            self.values = _replaced(self.values, keys, value)
        except UsageError as error:
            self.problems.append(Problem((), f"--set {assignment}: {error}"))
            return
        self._spots = _outside(keys, self._spots)
        self._overridden = {**_outside(keys, self._overridden), keys: f"--set {assignment}"}

    def located(self, problems: Iterable[Problem]) -> list[Problem]:
        """The problems in the file's order, ``file:line`` or the override at fault before each.

        Those in a file that this one extends come after its own.
        """
        found = [(*self._where(problem.place), problem) for problem in problems]
        found.sort(key=lambda item: item[0])
        return [
            Problem((), f"{where}: {problem}{self._remedy(problem.place)}")
            for _, where, problem in found
        ]

    def _where(self, place: Place) -> tuple[tuple[float, int], str]:
        """File and line to sort by, and what to put before a problem."""
        keys = tuple(map(str, place))
        inside = [text for known, text in self._overridden.items() if known[: len(keys)] == keys]
        if keys and inside:
            return (math.inf, 0), inside[-1]
        for known in (keys[:length] for length in range(len(keys), -1, -1)):
            if known in self._overridden:
                return (math.inf, 0), self._overridden[known]
            if known in self._spots:
                source, line = self._spots[known]
                renamed = "".join(f" with {text}" for _, text in self._renamed(keys))
                return (self._sources.index(source), line), f"{source}:{line}{renamed}"
        return (0, 0), self.source

    def _renamed(self, keys: Keys) -> list[tuple[str, str]]:
        """The innermost part around ``keys`` that an override made another, and that override."""
        parts = [keys[:length] for length in range(len(keys) - 1, 0, -1)]
        found = [(part, self._overridden.get((*part, "name"))) for part in parts]
        return [(".".join(part), text) for part, text in found if text is not None][:1]

    def _remedy(self, place: Place) -> str:
        """For an option of the file's own part, after an override of that part's name only."""
        keys = tuple(map(str, place))
        renamed = self._renamed(keys) if keys in self._spots else []
        return "".join(
            f" To replace the whole part: --set {part}={text.partition('=')[2].strip()}"
            for part, text in renamed
        )


def merged(base: Mapping[str, Any], own: Mapping[str, Any], *, top: bool = True) -> dict[str, Any]:
    """``own`` over ``base``: mappings are merged deeply, lists and scalars replaced.

    A part of another ``name`` replaces the base's whole, because options of one part mean nothing
    to another. At the ``top`` the name is the recipe's.
    """
    if not top and "name" in own and own["name"] != base.get("name"):
        return dict(own)
    result = {**base, **own}
    for key in base.keys() & own.keys():
        if isinstance(base[key], Mapping) and isinstance(own[key], Mapping):
            result[key] = merged(base[key], own[key], top=False)
    return result


def dump(values: Any) -> str:
    """Plain values as YAML, keys in their own order."""
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return text


def dump_flow(value: Any) -> str:
    """One plain value as YAML on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False
    )
    return text.removesuffix("...\n").rstrip("\n")


def _outside(keys: Keys, known: Mapping[Keys, T]) -> dict[Keys, T]:
    """What is known about places that are neither ``keys`` nor below it."""
    return {place: what for place, what in known.items() if place[: len(keys)] != keys}


def _stands(values: Any, keys: Keys) -> bool:
    """Whether there is a value at ``keys``."""
    for key in keys:
        if isinstance(values, Mapping) and key in values:
            values = values[key]
        elif isinstance(values, list) and key.isdigit() and int(key) < len(values):
            values = values[int(key)]
        else:
            return False
    return True


def _beside(path: Path) -> str:
    names = [other.name for other in path.parent.glob("[!.]*.y*ml")]
    return nearest(path.name, names, cutoff=0.6, key=lambda n: Path(n).stem) if names else ""


def _assignment(assignment: str) -> tuple[Keys, Any]:
    path, equals, text = assignment.partition("=")
    keys = tuple(key.strip() for key in path.split("."))
    if not equals or not all(keys):
        raise UsageError("expected key=value or key.subkey=value, e.g. seed=1.")
    try:
        reading = read_yaml(text)
    except NotYamlError as error:
        raise UsageError(f"the value is not YAML: {error}.") from None
    if reading.problems:
        raise UsageError(str(reading.problems[0]))
    return keys, reading.values


def _replaced(values: Any, keys: Keys, value: Any) -> Any:
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(values, str) and not key.isdigit():
        values = {"name": values}  # `objective: trades` is short for `objective: {name: trades}`
    if values is None or isinstance(values, dict):
        values = dict(values or {})
        return {**values, key: _replaced(values.get(key), rest, value)}
    if not isinstance(values, list):
        raise UsageError(f"there is no '{key}' in {shown(values)}.")
    places = [str(index) for index in range(len(values))]
    if key not in places:
        which = f"items 0 to {len(places) - 1}" if places else "no items"
        raise UsageError(f"there is no '{key}' in {shown(values)}; it has {which}.")
    index = places.index(key)
    return [*values[:index], _replaced(values[index], rest, value), *values[index + 1 :]]
