"""A run, read from its folder: files from elsewhere, so their content is checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from robustprune.datasets.base import few
from robustprune.errors import UsageError, nearest

_RESULTS = "results.json"
Fraction = Annotated[float, Field(ge=0, le=1)]
Metrics = dict[str, float | list[float]]


class _Document(BaseModel):
    """Takes the keys that it knows, and passes over those that later versions may add."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Alarm(_Document):
    """A certificate that an attack refuted on some images."""

    certificate: str
    attack: str
    images: list[int]


class Dead(_Document):
    """The one answer that a network gave to a number of images."""

    answer: int
    images: int


class Network(_Document):
    """One entry of a run's ``networks``."""

    name: str = Field(min_length=1)
    density: float = Field(gt=0, le=1)
    kept: int | None = None
    turnover: Fraction | None = None
    left_dense: list[str] = []
    metrics: Metrics = {}
    measures: dict[str, dict[str, Any]] = {}
    alarms: list[Alarm] = []
    dead: Dead | None = None

    @property
    def variant(self) -> str:
        """The label of its pruner in the recipe, ``hydra`` of ``hydra-0.01``; or dense."""
        return self.name.removesuffix(f"-{self.density:g}")

    @property
    def numbers(self) -> Metrics:
        """Kept weights, turnover, and the numbers of measures as ``size/bytes_packed``."""
        found = {"kept": self.kept, "turnover": self.turnover} | {
            f"{measure}/{name}": value
            for measure, values in self.measures.items()
            for name, value in values.items()
        }
        numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}


class Paper(_Document):
    """The paper's numbers of the same setting."""

    source: str
    metrics: dict[str, dict[str, Fraction]] | None = None
    """Accuracies in [0, 1] by metric and network, named as ours are."""

    def points(self, metric: str) -> dict[str, list[tuple[float, float]]]:
        """Return ``(density, value)`` by variant, also where nothing was run here."""
        found: dict[str, list[tuple[float, float]]] = {}
        for network, value in (self.metrics or {}).get(metric, {}).items():
            variant, _, text = network.rpartition("-")
            try:
                density = float(text) if variant else 1.0
            except ValueError:
                continue
            if 0 < density <= 1:
                found.setdefault(variant or network, []).append((density, value))
        return {variant: sorted(points, reverse=True) for variant, points in found.items()}


class Params(_Document):
    """The resolved recipe; only the sections that a report asks for are checked."""

    model_config = ConfigDict(extra="allow")

    data: dict[str, Any] = {}
    evaluate: list[dict[str, Any]] = []
    prune: dict[str, Any] | None = None
    paper: Paper | None = None


class Results(_Document):
    """The content of ``results.json``."""

    recipe: str
    seed: int
    networks: list[Network]
    datasets: list[dict[str, Any]] = []
    max_steps: int | None = None
    environment: dict[str, Any] = {}
    params: Params = Params()


class Epoch(_Document):
    """One entry of ``history.json``."""

    stage: str
    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Run:
    """One run."""

    path: Path
    """Its folder, or a ``results.json`` on its own."""
    results: Results
    ended: bool = False
    """It is known to have come to its end, though its folder does not say so yet."""

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as it stands in the results."""
        params = self.results.params
        return {**(params.model_extra or {}), **params.model_dump(exclude_unset=True)}

    @property
    def name(self) -> str:
        """The name of its folder, or of the lone file."""
        return self.path.stem if self.path.is_file() else self.path.resolve().name

    def file(self, network: str, name: str) -> Path | None:
        """Return a file in a network's folder, or None; never one outside the run folder."""
        path = self.path / network / name
        inside = path.resolve().is_relative_to(self.path.resolve())
        return path if inside and path.is_file() else None

    def number(self, network: str, name: str) -> float | None:
        """Return a metric or another number of a network; None if it was not measured."""
        for entry in self.results.networks:
            value = (entry.metrics | entry.numbers).get(name)
            if entry.name == network and isinstance(value, int | float):
                return value
        return None

    def images(self, network: str, metric: str) -> int | None:
        """Return the number of images that a metric is about, if it is known."""
        count = self.number(network, f"{metric}_n")
        return None if count is None else int(count)

    @property
    def tested(self) -> str | None:
        """The digest of the test set, if it is known."""
        digests = (d.get("digest") for d in self.results.datasets if d.get("context") == "test")
        return next((digest for digest in digests if isinstance(digest, str)), None)

    @property
    def models(self) -> dict[str, Path]:
        """The model files that are there, by network."""
        files = {n.name: self.file(n.name, "model.safetensors") for n in self.results.networks}
        return {name: file for name, file in files.items() if file is not None}

    def history(self, network: str) -> list[Epoch]:
        """Return the network's epochs; none if there is no such file.

        Raises:
            UsageError: the file is damaged.
        """
        path = self.file(network, "history.json")
        if path is None:
            return []
        try:
            return TypeAdapter(list[Epoch]).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise _not_written(path, error) from None

    def column(self, network: str, name: str) -> NDArray[np.float64] | None:
        """Return a column of ``images.parquet`` without nulls; None if it cannot be read."""
        from pyarrow import parquet  # which a results.json on its own does without
        from pyarrow.lib import ArrowException

        path = self.file(network, "images.parquet")
        if path is None:
            return None
        try:
            column = parquet.read_table(path, columns=[name])[name]  # type: ignore[no-untyped-call]
            return np.asarray(column.drop_null().to_numpy(), dtype=np.float64)
        except (ArrowException, OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def unsound(self) -> bool:
        """True if a certificate was refuted."""
        return any(network.alarms for network in self.results.networks)

    @property
    def finished(self) -> bool:
        """True if the run came to its end, as far as its folder shows."""
        return not self._unfinished()

    @property
    def state(self) -> str:
        """The shortcomings of the run, not of its networks, in a few words, or ``complete``."""
        return ", ".join(dict.fromkeys(word for word, _ in self._flaws() if word)) or "complete"

    @property
    def shortcomings(self) -> list[str]:
        """The reasons why this is not a complete and sound run of living networks; worst first."""
        return [reason for _, reason in self._flaws()]

    def _flaws(self) -> Iterator[tuple[str, str]]:
        for network in self.results.networks:
            for alarm in network.alarms:
                count = len(alarm.images)
                yield (
                    "SOUNDNESS ALARM",
                    f"SOUNDNESS ALARM for {network.name}: '{alarm.certificate}' verified and "
                    f"'{alarm.attack}' broke {count} image{'s'[: count != 1]}. Do not use the "
                    "certificates of this run",
                )
        if (steps := self.results.max_steps) is not None:
            yield f"cut at {steps} steps", f"each stage was cut at {steps} steps"
        yield from (("unfinished", reason) for reason in self._unfinished())
        for network in self.results.networks:
            if dead := network.dead:
                yield (
                    "",
                    f"{network.name} is dead: it answers class {dead.answer} for all {dead.images} "
                    "images, and its accuracies are the share of that class",
                )

    def _unfinished(self) -> list[str]:
        state = self.path / "state"
        if self.ended or (state / "finished").exists():
            return []  # it says so itself, also where a metric has no value for some network
        networks = {network.name: network.metrics for network in self.results.networks}
        metrics = {metric for measured in networks.values() for metric in measured}
        complete = [name for name, found in networks.items() if metrics <= found.keys()]
        prune = self.results.params.prune or {}
        expected = [
            f"{method.get('label') or method.get('name')}-{density:g}"
            for method in prune.get("methods") or []
            for density in prune.get("densities") or []
            if isinstance(method, dict) and isinstance(density, int | float)
        ]
        names = dict.fromkeys(["dense", *expected, *networks])
        if missing := [name for name in names if name not in complete]:
            return [f"it is unfinished: {few(missing, most=6)} not there or not fully evaluated"]
        return ["it is unfinished"] if (state / "run.json").exists() else []


def read_run(path: Path) -> Run:
    """Read a run folder, or a ``results.json`` on its own.

    Raises:
        UsageError: it is neither; the nearest run folders are named.
    """
    file = path if path.is_file() else path / _RESULTS
    if not file.is_file():
        raise UsageError(f"{path} is no run folder: it has no {_RESULTS}.{_hint(path)}")
    try:
        return Run(path, Results.model_validate_json(file.read_bytes()))
    except (OSError, ValidationError) as error:
        raise _not_written(file, error) from None


def _hint(path: Path) -> str:
    """Name the run folders in or beside ``path``, or in ``runs/``."""
    for place, depths in ((path, ("*", "*/*")), (path.parent, ("*",)), (Path("runs"), ("*/*",))):
        found = [file.parent for depth in depths for file in place.glob(f"{depth}/{_RESULTS}")]
        if found:
            return nearest(str(path), map(str, found), cutoff=0.3)
    return " A run writes one to runs/<recipe>/<id>."


def _not_written(file: Path, error: OSError | ValidationError) -> UsageError:
    text = str(error)
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        text = ": ".join(filter(None, [".".join(map(str, detail["loc"])), detail["msg"]]))
    return UsageError(f"{file} was not written by a run ({text}).")
