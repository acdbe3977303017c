"""What a model file says about where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune import __version__

if TYPE_CHECKING:
    from robustprune.parts import Part
    from robustprune.pruners import Pruner
    from robustprune.recipe import Recipe

FORMAT = 1


def provenance(
    recipe: Recipe,
    *,
    network: str,
    model: dict[str, Any],
    classes: Sequence[str],
    pruner: Pruner | None,
    density: float,
    turnover: float | None,
    max_steps: int | None = None,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata of one network's file: no time, no run id, no absolute path.

    Args:
        recipe: the run's.
        network: the network's name in the run.
        model: the arguments from which `create_model` rebuilds it.
        classes: the names of its classes in the order of its outputs.
        pruner: None for the dense network.
        density: as asked for.
        turnover: share of the kept weights that the initial scores did not keep.
        max_steps: set if phases were cut.
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
        "network": network,
        "model": model,
        "pruner": None if pruner is None else pruner.model_dump(mode="json"),
        "density": density,
        "turnover": turnover,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data": data,
        "classes": list(classes),
        "objective": _objective(recipe, pruner).model_dump(mode="json"),
        "evaluate": document["evaluate"],
        "channels_last": recipe.compute.channels_last,
        "versions": {"robustprune": __version__, "torch": metadata.version("torch")},
    }


def _objective(recipe: Recipe, pruner: Pruner | None) -> Part:
    """What the network minimised last: attacks and certificates are chosen by it."""
    if pruner is None:
        return recipe.objective_of("pretrain")
    return recipe.objective_of("prune" if recipe.finetune is None else "finetune")


def _absolute(path: str | None) -> bool:
    return path is not None and Path(path).is_absolute()
