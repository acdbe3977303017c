"""``results.json`` and ``history.json`` as they are read: files from elsewhere, so checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Metrics = dict[str, float | list[float]]


class _Read(BaseModel):
    """Takes what it knows, and leaves what later versions may add."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Alarm(_Read):
    """A certificate that an attack refuted."""

    certificate: str
    attack: str
    images: list[int]


class Dead(_Read):
    """The one answer that a network gave to all images."""

    answer: int
    images: int


class Network(_Read):
    """One entry of a run's ``networks``."""

    name: str = Field(min_length=1)
    density: float = Field(gt=0, le=1)
    pruner: str | None = None
    kept: int | None = None
    prunable: int | None = None
    turnover: Fraction | None = None
    left_dense: list[str] = []
    metrics: Metrics = {}
    alarms: list[Alarm] = []
    dead: Dead | None = None

    @property
    def variant(self) -> str:
        """What found its mask, as the recipe labels it: ``hydra`` of ``hydra-0.01``; or dense."""
        return self.name.removesuffix(f"-{self.density:g}")


class Paper(_Read):
    """What the paper reports of the same setting."""

    source: str
    metrics: dict[str, dict[str, Fraction]] | None = None
    """Accuracies in [0, 1] by metric and network, named as ours are."""

    def value(self, metric: str, network: str) -> float | None:
        """The paper's number, if it has been transcribed."""
        return (self.metrics or {}).get(metric, {}).get(network)

    def points(self, metric: str) -> dict[str, list[tuple[float, float]]]:
        """A metric's ``(density, value)`` by variant, also where nothing was run here."""
        found: dict[str, list[tuple[float, float]]] = {}
        for network, value in (self.metrics or {}).get(metric, {}).items():
            variant, _, text = network.rpartition("-")
            density = _density(text) if variant else 1.0
            if density is not None:
                found.setdefault(variant or network, []).append((density, value))
        return {variant: sorted(points, reverse=True) for variant, points in found.items()}


class Params(_Read):
    """What a report asks of a resolved recipe."""

    data: dict[str, Any] = {}
    evaluate: list[dict[str, Any]] = []
    prune: dict[str, Any] | None = None
    paper: Paper | None = None


class Results(_Read):
    """The content of ``results.json``."""

    recipe: str
    seed: int
    networks: list[Network]
    max_steps: int | None = None
    environment: dict[str, Any] = {}
    params: Params = Params()


class Epoch(_Read):
    """One entry of ``history.json``."""

    stage: str
    epoch: int
    metrics: dict[str, float]


def _density(text: str) -> float | None:
    try:
        density = float(text)
    except ValueError:
        return None
    return density if 0 < density <= 1 else None
