"""What a run folder's files say, checked: the folder may come from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustprune.errors import UsageError


def read_results(folder: Path) -> dict[str, Any]:
    """The content of ``results.json``; its ``networks`` are entries with names.

    Raises:
        UsageError: it is missing or damaged, or something that it names lies outside the folder.
    """
    results: dict[str, Any] = _json(folder / "results.json", dict)
    entries = results.get("networks")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise UsageError(f"'{folder / 'results.json'}' lists no networks: not a file of a run.")
    for part in (entry[key] for entry in entries for key in ("name", "model") if entry.get(key)):
        # Nothing outside the folder is read, uploaded or written.
        if not (folder / str(part)).resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"'{folder / 'results.json'}': '{part}' lies outside the run folder.")
    return results


def read_history(folder: Path) -> list[Mapping[str, Any]]:
    """The epochs of a network, from ``history.json`` in its folder; none if there is no file.

    Raises:
        UsageError: the file is damaged.
    """
    path = folder / "history.json"
    if not path.exists():
        return []
    lines: list[Mapping[str, Any]] = _json(path, list)
    needed = {"stage", "epoch", "metrics"}
    if not all(isinstance(line, dict) and needed <= line.keys() for line in lines):
        raise UsageError(f"'{path}': every entry needs stage, epoch and metrics.")
    return lines


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read '{path}' ({error.strerror}): give the folder of a finished run, "
            "runs/<recipe>/<id>."
        ) from None
    except ValueError as error:
        raise UsageError(f"'{path}' is not valid JSON: {error}.") from None
    if not isinstance(content, kind):
        raise UsageError(f"'{path}' holds no {kind.__name__}: not a file of a run.")
    return content
