"""Counts that leave nothing to do, or too little: found before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from robustprune.errors import UsageError, first_line
from robustprune.pipeline.phases import phase_data
from robustprune.seeding import fork

if TYPE_CHECKING:
    from torch import nn

    from robustprune.datasets import Splits
    from robustprune.recipe import PhaseOptions, Recipe
    from robustprune.types import PhaseName


def check_counts(
    recipe: Recipe, data: Splits, model: nn.Module, *, world: int = 1, max_steps: int | None = None
) -> None:
    """Make sure that each phase takes steps, on batches that the network learns from.

    Args:
        recipe: what is to be run.
        data: its images.
        model: the dense network, trained or not, on the CPU; it stays as it is.
        world: number of processes.
        max_steps: set if phases are cut.

    Raises:
        UsageError: a split is empty, a phase would take no step, or a batch, or a part of one, is
            too small for the network's norm layers.
    """
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps: {max_steps} leaves nothing to train. Use 1 or more.")
    if recipe.evaluate and not data.test:
        raise UsageError("evaluate: the dataset has no test images. Leave 'evaluate' out.")
    if data.validation is not None and not len(data.validation):
        raise UsageError("data.validation: it holds no image back. Use a larger share, or none.")
    for name, phase in _training(recipe):
        extra = _check_steps(name, phase, phase_data(recipe, data, name), world)
        least = _least(name, phase, extra, world)
        if name != "prune" or _norms_train(recipe):
            _check_learns(recipe, name, phase, data, model, images=least)


def _training(recipe: Recipe) -> Iterator[tuple[PhaseName, PhaseOptions]]:
    """The phases that train something."""
    if recipe.pretrain is not None:
        yield "pretrain", recipe.pretrain
    if recipe.prune is not None and any(hasattr(m, "train_norms") for m in recipe.prune.methods):
        yield "prune", recipe.prune
    if recipe.prune is not None and recipe.finetune is not None:
        yield "finetune", recipe.finetune


def _norms_train(recipe: Recipe) -> bool:
    """Whether norm layers take the statistics of batches while scores are learned."""
    assert recipe.prune is not None
    return any(getattr(method, "train_norms", False) for method in recipe.prune.methods)


def _check_steps(name: str, phase: PhaseOptions, data: Splits, world: int) -> int:
    """The number of images that each batch has beside the labelled ones."""
    train = data.train
    if not train:
        raise UsageError(f"{name}: the dataset has no training images.")
    if not train.steps(phase.batch_size, world=world):
        count = len(train)
        remedy = (
            f"--set {name}.batch_size={count}, or more images"
            if count >= world
            else "fewer processes"
        )
        raise UsageError(
            f"{name}: no step in {count} image{'s' * (count > 1)}, by {world} process"
            f"{'es' * (world > 1)}: a batch that is not full needs {2 * world}. Use {remedy}."
        )
    return int(getattr(train, "per_batch", 0))


def _least(name: str, phase: PhaseOptions, extra: int, world: int) -> int:
    """How many images the network sees at once, on all processes together: 1, or 2 and more."""
    total = phase.batch_size + extra
    if phase.accumulate > total:
        raise UsageError(
            f"{name}.accumulate: a batch of {total} cannot be cut into {phase.accumulate} parts. "
            f"Use {total} at most."
        )
    return min(max(total // phase.accumulate, world), 2)


def _check_learns(
    recipe: Recipe,
    name: str,
    phase: PhaseOptions,
    data: Splits,
    model: nn.Module,
    *,
    images: int,
) -> None:
    """Let a copy of the network see as few images at once, in training mode."""
    size = (images, data.channels, data.image_size, data.image_size)
    try:
        with fork(0, "counts"), torch.no_grad():
            copy.deepcopy(model).train()(torch.zeros(size))
    except ValueError as error:  # a norm layer's
        remedy = f"Use --set {name}.batch_size={2 * phase.accumulate} or more"
        if phase.accumulate > 1:
            remedy += f", or accumulate={max(phase.batch_size // 2, 1)} or less"
        if images > 1:
            remedy = "Choose another model, or larger images"
        raise UsageError(
            f"{name}: model '{recipe.model.name}' cannot learn from {images} "
            f"image{'s' * (images > 1)} at a time ({first_line(error)}). {remedy}."
        ) from None
