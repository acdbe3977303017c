"""YAML documents: read by one safe loader, overridden, and asked where things stand in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from robustprune.errors import InvalidError, Place, Problem, UsageError


class Document:
    """A YAML mapping that knows the line of each of its values.

    Attributes:
        source: the file's name, for messages.
        values: the plain document.
    """

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._lines: dict[Place, int] = {}
        self._overridden: dict[Place, str] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self.values: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{source} is not YAML: {_reason(error)}") from None
        except RecursionError:
            raise UsageError(f"{source} is not a recipe: it is nested too deeply.") from None
        if not isinstance(self.values, dict):
            found = "nothing" if self.values is None else f"a {type(self.values).__name__}"
            raise UsageError(
                f"{source} is not a recipe: expected 'key: value' lines such as 'name: …', "
                f"found {found}. Start from a file in recipes/."
            )
        duplicates = list(self._walk(node, ()))
        if duplicates:
            raise InvalidError(self.located(duplicates))

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file.

        Raises:
            UsageError: it cannot be read, is not YAML, or is no mapping.
        """
        try:
            return cls(str(path), path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(
                f"cannot read the recipe {path}: {error.strerror}. Recipes that come with "
                "robustprune are in recipes/, e.g. recipes/quickstart.yaml."
            ) from None
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not a recipe: it is not UTF-8 text.") from None

    def override(self, assignment: str) -> None:
        """Apply one ``key.subkey.0=value``; the value is YAML.

        Raises:
            UsageError: no ``=``, a value that is not YAML, or a path through something that is
                no mapping and no list.
        """
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"--set {assignment}: expected key=value, e.g. seed=1.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(
                f"--set {assignment}: the value is not YAML: {_reason(error)}"
            ) from None
        place: Place = tuple(int(k) if k.isdigit() else k for k in path.strip().split("."))
        self.values = _replaced(self.values, place, value, assignment)
        self._overridden[place] = f"--set {assignment}"

    def located(self, problems: list[Problem]) -> list[Problem]:
        """The problems with ``file:line`` (or the override that caused them) put before them."""
        return [Problem((), f"{self._where(p.place)}: {p}") for p in problems]

    def _where(self, place: Place) -> str:
        for known in (place[:length] for length in range(len(place), -1, -1)):
            if known in self._overridden:
                return self._overridden[known]
            if known in self._lines and known:
                return f"{self.source}:{self._lines[known]}"
        return self.source

    def _walk(self, node: yaml.Node | None, place: Place) -> Iterator[Problem]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                below = (*place, key.value)
                if key.value in seen and key.value != "<<":
                    yield Problem(below, f"the key '{key.value}' stands twice; keep one.")
                seen.add(key.value)
                self._lines[below] = key.start_mark.line + 1
                yield from self._walk(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*place, index)] = value.start_mark.line + 1
                yield from self._walk(value, (*place, index))


def dump(values: Any) -> str:
    """Plain values as YAML, keys in their own order."""
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return text


def _replaced(values: Any, place: Place, value: Any, assignment: str) -> Any:
    if not place:
        return value
    key, rest = place[0], place[1:]
    if isinstance(values, str) and key != "name":
        values = {"name": values}  # `objective: trades` is short for `objective: {name: trades}`
    if values is None or isinstance(values, dict):
        values = dict(values or {})
        values[str(key)] = _replaced(values.get(str(key)), rest, value, assignment)
        return values
    if isinstance(values, list) and isinstance(key, int) and key < len(values):
        values = list(values)
        values[key] = _replaced(values[key], rest, value, assignment)
        return values
    raise UsageError(f"--set {assignment}: there is no '{key}' in {values!r}.")


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}." if mark else f"{problem}."
