"""Reading YAML: one safe loader that keeps lines, and that no document can lead astray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from robustprune.errors import Problem
from robustprune.sentences import shown

Keys = tuple[str, ...]
"""Where in a document: mapping keys and list positions, all as text."""

_MOST_VALUES = 10_000
_DEEPEST = 50
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


class NotYamlError(ValueError):
    """A text that is no YAML, or none that we read.

    Attributes:
        line: where, from 1; None if it cannot be said.
    """

    def __init__(self, line: int | None, reason: str) -> None:
        self.line = line
        super().__init__(reason)


@dataclass
class Reading:
    """What a YAML text holds.

    Attributes:
        values: plain mappings with text keys, lists and scalars.
        lines: the line of each value, from 1; of a mapping's value, its key's.
        problems: keys that stand twice.
    """

    values: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_yaml(text: str) -> Reading:
    """Read one YAML document. Dates stay text, and so do keys such as ``no:`` and ``1:``.

    Raises:
        NotYamlError: it is none, holds a tag, or aliases make it endless.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Reading()
        reading = Reading()
        _Walk(reading).visit(node, ())
        reading.values = loader.construct_document(node)
    except RecursionError:
        raise NotYamlError(None, "it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise _not_yaml(error, text) from None
    return reading


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, in which what cannot be constructed is a YAML error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            raise _error(f"{shown(getattr(node, 'value', None))} cannot be read", node) from None


class _Walk:
    """One walk through a document before it is made, as far as aliases really unfold it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._values = 0
        self._seen: set[yaml.Node] = set()

    def visit(self, node: yaml.Node, place: Keys) -> None:
        """Note the lines and doubled keys in ``node``, and make its keys text."""
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _error(f"aliases make it larger than {_MOST_VALUES} values", node)
        if len(place) > _DEEPEST:
            raise _error(f"it is nested more than {_DEEPEST} deep", node)
        self._reading.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, place)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*place, str(index)))

    def _mapping(self, node: yaml.MappingNode, place: Keys) -> None:
        lines: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            self._key(key, (*place, str(key.value)), lines, again=node in self._seen)
            self.visit(value, (*place, key.value))
        self._seen.add(node)
        for source in merged:  # after the mapping's own keys, which win
            self.visit(source, place)

    def _key(self, key: yaml.Node, place: Keys, lines: dict[str, int], *, again: bool) -> None:
        if not isinstance(key, yaml.ScalarNode):
            raise _error("a key must be plain text", key)
        key.tag = _TEXT
        line = key.start_mark.line + 1
        if key.value in lines and not again:
            message = f"the key stands twice, on lines {lines[key.value]} and {line}; keep one."
            self._reading.problems.append(Problem(place, message))
        lines.setdefault(key.value, line)
        self._reading.lines.setdefault(place, line)


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _not_yaml(error: yaml.YAMLError, text: str) -> NotYamlError:
    words = [getattr(error, part, None) for part in ("context", "problem")]
    reason = ", ".join(filter(None, words)) or str(error).splitlines()[0]
    if "'\\t'" in reason:
        reason += "; indent with spaces, not with tabs"
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    if mark is not None:
        return NotYamlError(
            mark.line + 1, f"line {mark.line + 1}, column {mark.column + 1}: {reason}"
        )
    line = None if position is None else text.count("\n", 0, position) + 1
    return NotYamlError(line, reason)
