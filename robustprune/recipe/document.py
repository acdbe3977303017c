"""Recipes as YAML documents: extended, overridden, and asked where things stand in them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from robustprune.errors import InvalidError, Problem, UsageError
from robustprune.messages import shown
from robustprune.recipe import packaged
from robustprune.recipe.reading import Keys, NotYamlError, read_yaml

EXTENDS = "extends"
"""The key by which a recipe says only how it differs from another one."""

_MOST_BYTES = 2**20
_MOST_FILES = 100


class _Mark(NamedTuple):
    """The file and line where a value was written, or the override that put it there."""

    text: str
    is_override: bool = False


class Document:
    """A YAML mapping that knows the file and the line of each of its values.

    Attributes:
        values: the plain document.
        problems: its faults as YAML, and those of its overrides.
    """

    def __init__(self, source: str, text: str) -> None:
        try:
            reading = read_yaml(text)
        except NotYamlError as error:
            where = f"{source}:{error.line}" if error.line else source
            raise UsageError(f"{where}: {error}") from None
        self.values = reading.values
        if not isinstance(self.values, dict):
            raise UsageError(
                f"{source} is not a recipe: found {shown(self.values)}, expected 'key: value' "
                "lines such as 'name: …'. Start from a file in recipes/."
            )
        lines = sorted(reading.lines.items(), key=lambda item: item[1])
        self._marks = {keys: _Mark(f"{source}:{line}") for keys, line in lines}  # in their order
        self.problems = self.located(reading.problems)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file.

        Raises:
            UsageError: it cannot be read, is not YAML, or is no mapping.
        """
        if path.suffix == ".py":
            raise UsageError(
                f"{path} is Python, and no recipe. Name it under the 'imports:' of one, or have "
                f"its parts checked: robustprune check --part {path}"
            )
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise UsageError(f"{path} is not a recipe: it is larger than 1 MiB.")
            return cls(str(path), content.decode("utf-8"))
        except OSError as error:
            beside = (other.name for other in path.parent.glob("[!.]*.y*ml"))
            hint = _remedy(path) or packaged.near(str(path), *beside)
            message = f"cannot read the recipe {path}: {error.strerror}.{hint}"
            raise UsageError(message) from None
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not a recipe: it is not UTF-8 text.") from None

    def extend(self, base: Document) -> None:
        """Put ``base`` below what stands here; see `merged`. Problems are those of both."""
        self.values = merged(base.values, self.values)
        marks = {keys: mark for keys, mark in base._marks.items() if _stands(self.values, keys)}
        self._marks |= {keys: marks[keys] for keys in marks if keys not in self._marks}
        self.problems = [*base.problems, *self.problems]

    def override(self, assignment: str) -> None:
        """Apply one ``key.subkey.0=value``; the value is YAML.

        One that cannot be applied changes nothing and is noted in `problems`.
        """
        path, equals, text = assignment.partition("=")
        keys = tuple(key.strip() for key in path.split("."))
        try:
            if not equals or not all(keys):
                raise UsageError("expected key=value or key.subkey=value, e.g. seed=1.")
            reading = read_yaml(text)
            if reading.problems:
                raise UsageError(str(reading.problems[0]))
            self.values = _replaced(self.values, keys, reading.values)
        except UsageError as error:
            self.problems.append(Problem((), f"--set {assignment}: {error}"))
            return
        kept = {place: mark for place, mark in self._marks.items() if place[: len(keys)] != keys}
        self._marks = {**kept, keys: _Mark(f"--set {assignment}", is_override=True)}

    def located(self, problems: Iterable[Problem]) -> list[Problem]:
        """The problems in the file's order, ``file:line`` or the override at fault before each.

        Those in a file that this one extends come after its own. Where an override gave a part
        another name, its options are at fault with it.
        """
        order = {mark: number for number, mark in enumerate(self._marks.values())}
        found: list[tuple[int, Problem]] = []
        for problem in problems:
            keys = tuple(map(str, problem.place))
            mark = self._mark(keys)
            names = [self._marks.get((*keys[:n], "name"), mark) for n in range(1, len(keys))]
            renamed = [f" with {name.text}" for name in names if name.is_override]
            where = mark.text if mark.is_override else "".join([mark.text, *renamed[:1]])
            found.append((order[mark], Problem((), f"{where}: {problem}")))
        return [problem for _, problem in sorted(found, key=lambda item: item[0])]

    def _mark(self, keys: Keys) -> _Mark:
        """The mark of the last override in a place, of the place, or of what is around it."""
        overrides = [place for place, mark in self._marks.items() if mark.is_override]
        inside = [place for place in overrides if keys and place[: len(keys)] == keys]
        around = [keys[:length] for length in range(len(keys), -1, -1)]
        return next(
            self._marks[place] for place in [*inside[::-1], *around] if place in self._marks
        )


def read_extended(path: Path) -> Document:
    """Read a recipe and what it extends, and so on, as one document without ``extends:``.

    ``extends`` names a file relative to the one it stands in, a recipe that comes with the package
    by its name, or a list of them, of which later ones win. Mappings are merged deeply, lists and
    scalars replaced (`merged`). Files in ``imports:`` are relative to the file that names them; all
    other paths start where they would in any recipe.

    Raises:
        UsageError: a file cannot be read or is no recipe, files extend each other in a circle, or
            there are too many.
    """
    files = 0

    def read(path: Path, above: tuple[Path, ...]) -> Document:
        nonlocal files
        files += 1
        document = Document.read(path)
        chain = (*above, path.resolve())
        names = document.values.pop(EXTENDS, [])
        places: dict[Keys, Any] = {(EXTENDS,): names}
        if isinstance(names, list):
            places = {(EXTENDS, str(index)): name for index, name in enumerate(names)}
        for place, name in reversed(places.items()):
            try:
                if not isinstance(name, str):
                    message = f"expected a recipe's file, or a list of them; got {shown(name)}."
                    raise UsageError(message)
                extended = packaged.find(name, near=path.parent)
                if extended.resolve() in chain:
                    hint = _hidden(name, extended, path)
                    raise UsageError(
                        f"'{name}' extends this file in turn. Take one of them out.{hint}"
                    )
                if files > _MOST_FILES:
                    raise UsageError(f"more than {_MOST_FILES} files are extended. Merge some.")
                base = read(extended, chain)
            except InvalidError:
                raise
            except UsageError as error:
                raise InvalidError(document.located([Problem(place, str(error))])) from None
            imports = base.values.get("imports")
            if isinstance(imports, list):
                moved = [_moved(name, extended.parent, path.parent) for name in imports]
                base.values["imports"] = moved
            document.extend(base)
        return document

    return read(packaged.find(path), ())


def _hidden(name: str, extended: Path, by: Path) -> str:
    """Tell that a file extends itself by a name that a packaged recipe has, too."""
    if extended.resolve() != by.resolve() or packaged.packaged(name) in (None, by.resolve()):
        return ""
    return f" If the '{name}' that comes with robustprune is meant, call this file otherwise."


def _remedy(path: Path) -> str:
    """Tell what was meant by a path that is no recipe's; empty if that is not known."""
    if "=" in path.name and not path.exists():
        return f" A recipe's options are changed by --set: --set {path}"
    if (path / "recipe.yaml").is_file():
        return f" It is a run's folder: name {path / 'recipe.yaml'}."
    return ""


def _moved(name: Any, folder: Path, to: Path) -> Any:
    """An entry of ``imports``, with a relative file named from ``to`` instead of ``folder``."""
    if not (isinstance(name, str) and name.endswith(".py")) or Path(name).is_absolute():
        return name
    if not os.path.isfile(folder / name) and os.path.isfile(name):
        return name  # named from the working directory
    return Path(os.path.relpath(folder / name, to)).as_posix()


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


def changes(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The least that `merged` makes ``values`` of ``base`` with; None if a key was dropped.

    Mappings hold the keys that differ; a list, or a part of another ``name``, is there whole.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        before = base.get(key)
        inner = None
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = changes(before, value) if value.get("name") == before.get("name") else None
        if key not in base or before != value:
            found[key] = value if inner is None else inner
    return found if merged(base, found) == values else None


def dump(values: Any, *, flow: bool = False) -> str:
    """Plain values as YAML, keys in their own order; with ``flow`` on one line."""
    width = math.inf if flow else 100
    text: str = yaml.safe_dump(
        values, default_flow_style=flow, allow_unicode=True, width=width, sort_keys=False
    )
    return text.removesuffix("...\n").rstrip("\n") if flow else text


def _stands(values: Any, keys: Keys) -> bool:
    """True if there is a value at ``keys``."""
    try:
        for key in keys:
            values = values[int(key) if isinstance(values, list) else key]
    except (LookupError, TypeError, ValueError):
        return False
    return True


def _replaced(values: Any, keys: Keys, value: Any) -> Any:
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(values, str) and not key.isdigit():
        values = {"name": values}  # `objective: trades` is short for `objective: {name: trades}`
    if values is None or isinstance(values, dict):
        return {**(values or {}), key: _replaced((values or {}).get(key), rest, value)}
    items = {str(n): item for n, item in enumerate(values)} if isinstance(values, list) else {}
    if key not in items:
        counted = " Items are counted from 0." if isinstance(values, list) else ""
        raise UsageError(f"there is no '{key}' in {shown(values)}.{counted}")
    return [*{**items, key: _replaced(items[key], rest, value)}.values()]
