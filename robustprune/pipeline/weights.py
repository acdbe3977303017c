"""The weights that a recipe's network starts from, if it names some."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import differences, listed
from robustprune.datasets.base import other_classes
from robustprune.errors import UsageError
from robustprune.families import family
from robustprune.models import pretrained

if TYPE_CHECKING:
    from torch import nn

    from robustprune.recipe import Recipe


def start_from(recipe: Recipe, model: nn.Module, architecture: dict[str, Any]) -> list[str]:
    """Give a new network the weights that the recipe names, if it names some.

    Args:
        recipe: its ``model.weights``.
        model: changed in place.
        architecture: complete arguments of `create_model`, which it was built with.

    Returns:
        What the user should know about them, a sentence each.

    Raises:
        UsageError: they cannot be read, or do not fit; what differs is listed.
    """
    weights = recipe.model.weights
    if weights is None:
        return []
    if weights == pretrained.NAME:
        _check_classes(recipe, architecture)
        _check_names(recipe, pretrained.class_names(recipe.model.name))
        pretrained.load_into(model, architecture)
        return []
    saved = read_model(Path(weights), architecture)
    _check_names(recipe, classes_of(saved.metadata))
    found = saved.model.state_dict()
    if problems := differences(model.state_dict(), found):  # its file may be of another image size
        raise UsageError(
            f"model.weights: {weights} does not fit model '{recipe.model.name}' for images of this "
            f"dataset: {listed(problems)}."
        )
    model.load_state_dict(found)
    if not saved.masks:
        return []
    kept = sum(int(m.sum()) for m in saved.masks.values()) / sum(
        m.numel() for m in saved.masks.values()
    )
    return [
        f"{weights} is pruned to density {kept:.4g}: here it counts as a dense network, whose "
        "zeros may be kept, and trained, again."
    ]


def _check_classes(recipe: Recipe, architecture: dict[str, Any]) -> None:
    """Make sure that a last layer that has not been trained is going to be."""
    found, wanted = pretrained.num_classes(recipe.model.name), architecture["num_classes"]
    if recipe.pretrain is None and found not in (None, wanted):
        raise UsageError(
            f"model.weights: timm's weights of '{recipe.model.name}' tell {found} classes "
            f"apart, and {wanted} are needed: its last layer has to be trained. "
            "Add a 'pretrain:' stage."
        )


def _check_names(recipe: Recipe, classes: Sequence[str]) -> None:
    """Make sure that labels mean what they meant where no last layer learns them anew."""
    if recipe.pretrain is not None or not classes:
        return
    data: Any = recipe.data
    try:
        same = data.for_network(classes).class_names == data.class_names
    except UsageError as error:
        raise UsageError(f"model.weights: {error}") from None
    if not same:
        raise other_classes(data, classes)


def classes_of(metadata: Mapping[str, Any]) -> list[str]:
    """The names of a network's classes in the order of its outputs; none if they are not known."""
    if classes := metadata.get("classes"):
        return list(classes)
    name = (metadata.get("data") or {}).get("name")  # of a file that names its dataset only
    known = family("datasets").get(name) if name in family("datasets").names() else None
    names = getattr(known, "class_names", ())
    return list(names) if isinstance(names, tuple) else []


def check_unchanged(recipe: Recipe, before: Mapping[str, Any]) -> None:
    """Make sure that a run goes on from the weights that it began with.

    Raises:
        UsageError: their file is another one now.
    """
    if origin(recipe) != before:
        raise UsageError(
            f"model.weights: {recipe.model.weights} has changed since the run began. Put the file "
            "back, or run anew without --resume."
        )


def origin(recipe: Recipe) -> dict[str, Any]:
    """Where a recipe's weights come from, for the metadata of what is made of them."""
    weights = recipe.model.weights
    if weights is None:
        return {}
    if weights == pretrained.NAME:
        return {"weights": weights}
    try:
        digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{weights} cannot be read any more: {error.strerror}.") from None
    return {"weights": {"file": Path(weights).name, "sha256": digest}}
