"""What a model file says about where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune import __version__

if TYPE_CHECKING:
    from robustprune.parts import Part
    from robustprune.pipeline.stages import Network
    from robustprune.recipe import Recipe

FORMAT = 1


def provenance(
    recipe: Recipe,
    *,
    network: Network,
    model: dict[str, Any],
    classes: Sequence[str],
    turnover: float | None,
    max_steps: int | None = None,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata of one network's file: no time, no run id, no absolute path.

    Args:
        recipe: the run's.
        network: which one of the run.
        model: the arguments from which `create_model` rebuilds it.
        classes: the names of its classes in the order of its outputs.
        turnover: share of the kept weights that the first mask did not keep.
        max_steps: set if stages were cut.
        origin: where the weights come from that it started from; see `weights`.
    """
    document = recipe.document()
    data = {k: v for k, v in document["data"].items() if not (k == "root" and _absolute(v))}
    data.pop("extra", None)
    cut = {} if max_steps is None else {"max_steps": max_steps}
    return {
        "format": FORMAT,
        **cut,
        **(origin or {}),
        "network": network.name,
        "model": model,
        "pruner": None if network.pruner is None else network.pruner.model_dump(mode="json"),
        "density": network.density,
        "turnover": turnover,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data": data,
        "classes": list(classes),
        "objective": _objective(recipe, network).model_dump(mode="json"),
        "evaluate": document["evaluate"],
        "channels_last": recipe.compute.channels_last,
        "versions": {"robustprune": __version__, "torch": metadata.version("torch")},
    }


def _objective(recipe: Recipe, network: Network) -> Part:
    """What the network minimised last: attacks and certificates are chosen by it."""
    trained = [stage.options for stage in network.stages if stage.options is not None]
    own = trained[-1].objective if trained else None
    return recipe.objective if own is None else own


def _absolute(path: str | None) -> bool:
    return path is not None and Path(path).is_absolute()
