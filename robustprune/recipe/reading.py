"""Reading YAML: one safe loader that keeps lines, and that no document can lead astray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from robustprune.errors import Problem, UsageError
from robustprune.messages import shown

Keys = tuple[str, ...]
"""Where in a document: mapping keys and list positions, all as text."""

_MOST_VALUES = 10_000
_DEEPEST = 50


class NotYamlError(UsageError):
    """A text that is no YAML, or none that we read; ``line`` counts from 1, None if not known."""

    def __init__(self, line: int | None, reason: str) -> None:
        self.line = line
        super().__init__(f"this is not YAML: {reason}.")


@dataclass
class Reading:
    """The content of a YAML text."""

    values: Any = None
    """Plain mappings with text keys, lists and scalars."""
    lines: dict[Keys, int] = field(default_factory=dict)
    """The line of each value, from 1; of a mapping's value, its key's."""
    problems: list[Problem] = field(default_factory=list)
    """Keys that stand twice."""


def read_yaml(text: str) -> Reading:
    """Read one YAML document. Dates stay text, and so do keys such as ``no:`` and ``1:``.

    Raises:
        NotYamlError: it is none, holds a tag, or aliases make it endless.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            loader.reading.values = loader.value(node, ())
    except RecursionError:
        raise NotYamlError(None, "it is nested too deeply") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYamlError(line, str(error).splitlines()[0]) from None
    except yaml.MarkedYAMLError as error:
        reason = ", ".join(filter(None, (error.context, error.problem)))
        if "'\\t'" in reason:
            reason += "; indent with spaces, not with tabs"
        mark: Any = error.problem_mark
        line, column = mark.line + 1, mark.column + 1
        raise NotYamlError(line, f"line {line}, column {column}: {reason}") from None
    return loader.reading


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, in which each value's line is noted."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.reading = Reading()
        self._values = 0

    def value(self, node: yaml.Node, place: Keys) -> Any:
        """The value of a node; one under an alias is made anew each time it is named."""
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _error(f"aliases make it larger than {_MOST_VALUES} values", node)
        if len(place) > _DEEPEST:
            raise _error(f"it is nested more than {_DEEPEST} deep", node)
        self.reading.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == self.DEFAULT_MAPPING_TAG:
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == self.DEFAULT_SEQUENCE_TAG:
            return [self.value(item, (*place, str(n))) for n, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode):
            self.construct_undefined(node)
        try:
            return self.construct_object(node)
        except (ValueError, LookupError, AttributeError):
            raise _error(f"{shown(node.value)} cannot be read", node) from None

    def _mapping(self, node: yaml.MappingNode, place: Keys) -> dict[str, Any]:
        lines: dict[str, int] = {}
        values: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key must be plain text", key)
            inner, line = (*place, key.value), key.start_mark.line + 1
            first = lines.setdefault(key.value, line)
            twice = f"the key stands twice, on lines {first} and {line}; keep one."
            # an alias may come here again
            if key.value in values and all(p.message != twice for p in self.reading.problems):
                self.reading.problems.append(Problem(inner, twice))
            if node.flow_style and ":" in key.value and not value.value:
                key_, _, rest = key.value.partition(":")
                spaced = f"a space must follow the colon: write {{{key_}: {rest}}}."
                self.reading.problems.append(Problem(place, spaced))
            self.reading.lines.setdefault(inner, line)
            values[key.value] = self.value(value, inner)
        for source in merged:  # after the mapping's own keys, which win
            if not isinstance(source, yaml.MappingNode):
                raise _error("expected a mapping or list of mappings for merging", source)
            values = {**self.value(source, place), **values}
        return values


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
