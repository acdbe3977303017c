"""The network that a recipe starts from, and whether it takes the dataset's images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from robustprune.errors import UsageError, first_line
from robustprune.modes import eval_mode
from robustprune.pipeline.weights import start_from
from robustprune.seeding import fork

if TYPE_CHECKING:
    from robustprune.datasets import Splits
    from robustprune.recipe import Recipe


def initial_network(
    recipe: Recipe, data: Splits, *, warn: Callable[[str], None] = lambda text: None
) -> nn.Module:
    """The dense network before any training; on the CPU, in training mode.

    Drawn from the recipe's seed, or with the weights that the recipe names.

    Args:
        recipe: says what network.
        data: says what images and classes.
        warn: is told what there is to know about the weights.

    Raises:
        UsageError: it cannot be built, its weights cannot be read or do not fit, or it does not
            take the dataset's images.
    """
    architecture = recipe.model.resolved(**shape(data))
    with fork(recipe.seed, "dense", "init"):
        model = recipe.model.build(**shape(data))
    for remark in start_from(recipe, model, architecture):
        warn(remark)
    check_takes(model, data, name=recipe.model.name)
    return model


def shape(data: Splits) -> dict[str, int]:
    """What a network must know of a dataset."""
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
        reason = first_line(error)
        raise UsageError(
            f"model '{name}' does not take the dataset's images of {size} "
            f"({type(error).__name__}: {reason}). Choose another model or dataset, or arguments "
            "under 'model.args' that suit the size."
        ) from error
    found = tuple(getattr(logits, "shape", ()))
    if len(found) != 2 or found[1] < data.num_classes:
        raise UsageError(
            f"model '{name}' gives {found or type(logits).__name__} for one image of {size}, but "
            f"the dataset has {data.num_classes} classes: expected (1, {data.num_classes})."
        )
    return int(found[1])
