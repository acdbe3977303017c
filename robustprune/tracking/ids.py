"""The MLflow run ids of a run folder, kept so that a resumed run goes on in the same runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class RunIds:
    """``{"parent": id, "networks": {name: id}}`` in a JSON file, written at every change.

    Args:
        path: the file; a missing or damaged one counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        document = _read(path)
        networks = document.get("networks")
        self._parent = document.get("parent")
        self._networks: dict[str, Any] = networks if isinstance(networks, dict) else {}

    def get(self, network: str | None) -> str | None:
        """The id of a network's run, or of the parent's for None; None if there is none."""
        found = self._parent if network is None else self._networks.get(network)
        return found if isinstance(found, str) else None

    def put(self, network: str | None, run_id: str) -> None:
        """Note a new run. A new parent forgets the old one's children."""
        if network is None:
            self._parent, self._networks = run_id, {}
        else:
            self._networks[network] = run_id
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f"{self._path.name}.new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"parent": self._parent, "networks": self._networks}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
