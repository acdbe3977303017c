"""A run, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robustprune.errors import UsageError, nearest
from robustprune.report.documents import Epoch, Network, Results

_RESULTS = "results.json"
_MOST = 6  # networks that are named one by one


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        path: its folder, or a ``results.json`` on its own.
        results: what it found.
        recipe: the resolved recipe as it stands in ``results.json``, unchecked.
        ended: it is known to have come to its end, though its folder does not say so yet.
    """

    path: Path
    results: Results
    recipe: dict[str, Any]
    ended: bool = False

    @property
    def name(self) -> str:
        """What the run is called: its folder's name, or that of the lone file."""
        return self.path.stem if self.path.is_file() else self.path.resolve().name

    def file(self, network: str, name: str) -> Path | None:
        """A file in a network's folder, or None; never one outside the run folder."""
        path = self.path / network / name
        inside = path.resolve().is_relative_to(self.path.resolve())
        return path if inside and path.is_file() else None

    def history(self, network: str) -> list[Epoch]:
        """The network's epochs; none if there is no such file.

        Raises:
            UsageError: the file is damaged.
        """
        path = self.file(network, "history.json")
        if path is None:
            return []
        try:
            return TypeAdapter(list[Epoch]).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UsageError(f"{path} was not written by a run ({_first(error)}).") from None

    @property
    def shortcomings(self) -> list[str]:
        """Why this is not a whole and sound run of living networks; the worst first."""
        return [*self._alarms(), *self._cut(), *self._unfinished(), *self._dead()]

    @property
    def state(self) -> str:
        """The same in a few words."""
        words = {
            "SOUNDNESS ALARM": self.unsound,
            f"cut at {self.results.max_steps} steps": any(self._cut()),
            "unfinished": not self.finished,
        }
        return ", ".join(word for word, holds in words.items() if holds) or "complete"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, as far as its folder shows."""
        return not any(self._unfinished())

    def _cut(self) -> Iterator[str]:
        if self.results.max_steps is not None:
            yield f"each stage was cut at {self.results.max_steps} steps"

    def _unfinished(self) -> Iterator[str]:
        state = self.path / "state"
        if self.ended or (state / "finished").exists():
            return  # by its own word, also where a metric has no value for some network
        if missing := self._missing():
            more = f" and {len(missing) - _MOST} more" if len(missing) > _MOST else ""
            named = ", ".join(missing[:_MOST])
            yield f"it is unfinished: {named}{more} not there or not fully judged"
        elif (state / "run.json").exists():
            yield "it is unfinished"

    def _missing(self) -> list[str]:
        """Networks that the recipe asks for and that are not there, or lack a metric."""
        networks = {network.name: network for network in self.results.networks}
        metrics = {metric for network in networks.values() for metric in network.metrics}
        judged = [name for name, found in networks.items() if metrics <= found.metrics.keys()]
        names = dict.fromkeys([*self._expected(), *networks])
        return [name for name in names if name not in judged]

    def _expected(self) -> Iterator[str]:
        yield "dense"
        prune = self.results.params.prune or {}
        for method in prune.get("methods") or []:
            for density in prune.get("densities") or []:
                if isinstance(method, dict) and isinstance(density, int | float):
                    yield f"{method.get('label') or method.get('name')}-{density:g}"

    def _dead(self) -> Iterator[str]:
        for network in self.results.networks:
            if network.dead is not None:
                yield (
                    f"{network.name} is dead: it answers class {network.dead.answer} for all "
                    f"{network.dead.images} images, and its accuracies are the share of that class"
                )

    def _alarms(self) -> Iterator[str]:
        for network in self.results.networks:
            for alarm in network.alarms:
                yield (
                    f"SOUNDNESS ALARM for {network.name}: '{alarm.certificate}' verified and "
                    f"'{alarm.attack}' broke {_images(len(alarm.images))}. Do not use the "
                    "certificates of this run"
                )

    @property
    def unsound(self) -> bool:
        """Whether a certificate was refuted."""
        return any(network.alarms for network in self.results.networks)

    def network(self, name: str) -> Network | None:
        """The entry of a network, if the run has it."""
        return next((found for found in self.results.networks if found.name == name), None)


def read_run(path: Path) -> Run:
    """Read a run folder, or a ``results.json`` on its own.

    Raises:
        UsageError: it is neither; the nearest run folders are named.
    """
    file = path if path.is_file() else path / _RESULTS
    if not file.is_file():
        raise UsageError(f"{path} is no run folder: it has no {_RESULTS}.{_hint(path)}")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        results = Results.model_validate(document)
    except (OSError, ValueError) as error:  # ValidationError is a ValueError
        raise UsageError(f"{file} was not written by a run ({_first(error)}).") from None
    return Run(path, results, document.get("params") or {})


def _hint(path: Path) -> str:
    """The run folders in or beside ``path``, or in ``runs/``."""
    for place, depths in ((path, ("*", "*/*")), (path.parent, ("*",)), (Path("runs"), ("*/*",))):
        found = [file.parent for depth in depths for file in place.glob(f"{depth}/{_RESULTS}")]
        if found:
            return nearest(str(path), map(str, found), cutoff=0.3)
    return " A run writes one to runs/<recipe>/<id>."


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors()[0]
    place = ".".join(map(str, detail["loc"]))
    return f"{place}: {detail['msg']}" if place else detail["msg"]


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
