"""What a model file says of its network, read as data that anybody may have written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustprune.artifacts.limits import LONGEST_STRUCTURE
from robustprune.artifacts.surgery import Cut
from robustprune.errors import UsageError


class _Open(BaseModel):
    """A mapping in which more may stand than is known here; nothing is converted."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _Part(_Open):
    name: str


class _Metadata(_Open):
    """The keys that robustprune reads, and what they must be if they are there."""

    model: _Part
    data: _Part | None = None
    classes: list[str] = []
    objective: _Part | None = None
    pruner: _Part | None = None
    evaluate: list[_Part] = []
    metrics: dict[str, float | Annotated[list[float], Field(min_length=2, max_length=2)]] = {}
    alarms: list[dict[str, Any]] = []
    density: float = 1.0
    turnover: float | None = None
    recipe: str = ""
    network: str = ""
    seed: int = 0
    max_steps: int | None = None
    channels_last: bool = False
    versions: dict[str, str] = {}
    imported: dict[str, Any] = {}
    weights: str | dict[str, Any] | None = None
    values: str = ""
    masked: list[str] = []
    layout: str = ""
    surgery: list[Cut] = []


def canonical(document: dict[str, Any]) -> str:
    """Metadata as the one text that stands for it: equal content is an equal text."""
    return json.dumps(document, sort_keys=True, allow_nan=False)


def parsed(path: Path, text: str | bytes) -> dict[str, Any]:
    """A JSON mapping; ``path`` is for messages.

    Raises:
        UsageError: it is too long, no JSON, or no mapping, or holds what JSON has no word for.
    """
    if len(text) > LONGEST_STRUCTURE:
        raise UsageError(
            f"{path} was not read: its metadata is longer than {LONGEST_STRUCTURE:,} characters."
        )
    try:
        document = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path} is damaged: its metadata cannot be read ({reason}).") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path} is damaged: its metadata is no mapping.")
    return document


def described(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a network, as it was found, made sure of.

    Raises:
        UsageError: it names no architecture, or a key that is read holds something else.
    """
    try:
        _Metadata.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path} is damaged: in its metadata, {place}: {first['msg'].lower()}."
        ) from None
    return document


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits} is too large")
    return value
