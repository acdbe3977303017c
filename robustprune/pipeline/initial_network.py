"""The network that a recipe starts from, the weights in it, and whether it takes the images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import differences, listed
from robustprune.datasets import Splits
from robustprune.datasets.base import other_classes
from robustprune.errors import UsageError, first_line
from robustprune.families import family
from robustprune.models import create_model, pretrained
from robustprune.pipeline.intake import doubt
from robustprune.recipe import Recipe
from robustprune.seeding import fork
from robustprune.train_mode import eval_mode


def initial_network(
    recipe: Recipe, data: Splits, *, warn: Callable[[str], None] = lambda text: None
) -> nn.Module:
    """The dense network before any training; on the CPU, in training mode.

    Drawn from the recipe's seed, or with the weights that the recipe names; ``warn`` is told if
    those are of a pruned network, or if they guess the images' classes.

    Raises:
        UsageError: it cannot be built, its weights cannot be read or do not fit, or it does not
            take the dataset's images.
    """
    weights, architecture = recipe.model.weights, recipe.model.resolved(**shape(data))
    with fork(recipe.seed, "dense", "init"):
        model = create_model(**architecture)
    if weights == pretrained.NAME:
        known, wanted = pretrained.num_classes(recipe.model.name), architecture["num_classes"]
        if recipe.pretrain is None and known not in (None, wanted):
            raise UsageError(
                f"model.weights: timm's weights of '{recipe.model.name}' tell {known} classes "
                f"apart, and {wanted} are needed: its last layer has to be trained. "
                "Add a 'pretrain:' stage."
            )
        _check_names(recipe, pretrained.class_names(recipe.model.name))
        pretrained.load_into(model, architecture)
    elif weights is not None:
        _load_file(recipe, Path(weights), model, architecture, warn)
    check_takes(model, data, name=recipe.model.name)
    untaught = weights is not None and recipe.pretrain is None
    if untaught and (text := doubt(model, data.test, architecture, device=torch.device("cpu"))):
        warn(f"model.weights: {text}")
    return model


def shape(data: Splits) -> dict[str, int]:
    """The arguments of a network that a dataset decides."""
    return {
        "num_classes": data.num_classes,
        "in_chans": data.channels,
        "image_size": data.image_size,
    }


def check_takes(model: nn.Module, data: Splits, *, name: str) -> int:
    """Make sure that a network on the CPU classifies images of a dataset.

    One black image is tried in eval mode, in a random state of its own, so that the network and
    what is drawn later stay as they are.

    Returns:
        The number of its logits.

    Raises:
        UsageError: it raises, whatever that is, or gives something else than enough logits.
    """
    size = f"{data.channels}×{data.image_size}×{data.image_size}"
    image = torch.zeros(1, data.channels, data.image_size, data.image_size)
    try:
        with fork(0, "fit"), eval_mode(model), torch.no_grad():
            logits = model(image)
    except Exception as error:  # architectures fail in many ways at a size they were not made for
        raise UsageError(
            f"model '{name}' does not take the dataset's images of {size} "
            f"({type(error).__name__}: {first_line(error)}). Choose another model or dataset, or "
            "arguments under 'model.args' that suit the size."
        ) from error
    given = tuple(getattr(logits, "shape", ()))
    if len(given) != 2 or given[1] < data.num_classes:
        raise UsageError(
            f"model '{name}' gives {given or type(logits).__name__} for one image of {size}, but "
            f"the dataset has {data.num_classes} classes: expected (1, {data.num_classes})."
        )
    return int(given[1])


def classes_of(metadata: Mapping[str, Any]) -> list[str]:
    """The names of a network's classes in the order of its outputs; none if they are not known."""
    if classes := metadata.get("classes"):
        return list(classes)
    name = (metadata.get("data") or {}).get("name")  # of a file that names its dataset only
    known = family("datasets").get(name) if name in family("datasets").names() else None
    names = getattr(known, "class_names", ())
    return list(names) if isinstance(names, tuple) else []


def origin(recipe: Recipe) -> dict[str, Any]:
    """The origin of a recipe's weights, for the metadata of what is made of them.

    Raises:
        UsageError: their file cannot be read.
    """
    weights = recipe.model.weights
    if weights is None or weights == pretrained.NAME:
        return {} if weights is None else {"weights": weights}
    try:
        digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{weights} cannot be read any more: {error.strerror}.") from None
    return {"weights": {"file": Path(weights).name, "sha256": digest}}


def _load_file(
    recipe: Recipe,
    weights: Path,
    model: nn.Module,
    architecture: dict[str, Any],
    warn: Callable[[str], None],
) -> None:
    saved = read_model(weights, architecture)
    _check_names(recipe, classes_of(saved.metadata))
    tensors = saved.model.state_dict()
    if problems := differences(model.state_dict(), tensors):  # it may be of another image size
        raise UsageError(
            f"model.weights: {weights} does not fit model '{recipe.model.name}' for images of this "
            f"dataset: {listed(problems)}."
        )
    model.load_state_dict(tensors)
    if masks := saved.masks.values():
        kept = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        warn(
            f"{weights} is pruned to density {kept:.4g}: here it counts as a dense network, whose "
            "zeros may be kept, and trained, again."
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
