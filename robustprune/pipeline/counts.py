"""Counts that leave nothing to do, or too little: found before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from robustprune.errors import UsageError, first_line
from robustprune.pipeline.stages import networks
from robustprune.seeding import fork

if TYPE_CHECKING:
    from torch import nn

    from robustprune.datasets import Splits
    from robustprune.recipe import Recipe, StageOptions


def check_counts(
    recipe: Recipe, data: Splits, model: nn.Module, *, world: int = 1, max_steps: int | None = None
) -> None:
    """Make sure that each stage takes steps, on batches that the network learns from.

    Args:
        recipe: what is to be run.
        data: its images.
        model: the dense network, trained or not, on the CPU; it stays as it is.
        world: number of processes.
        max_steps: set if stages are cut.

    Raises:
        UsageError: a split is empty, a stage would take no step, or a batch, or a part of one, is
            too small for the network's norm layers.
    """
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps: {max_steps} leaves nothing to train. Use 1 or more.")
    if recipe.evaluate and not data.test:
        raise UsageError("evaluate: the dataset has no test images. Leave 'evaluate' out.")
    if data.validation is not None and not len(data.validation):
        raise UsageError("data.validation: it holds no image back. Use a larger share, or none.")
    for key, options, norms in _training(recipe):
        try:
            part = data.part(options.share, seed=recipe.seed)
        except UsageError as error:
            raise UsageError(f"{key}.{error}") from None
        extra = _check_steps(key, options, part, world)
        least = _least(key, options, extra, world)
        if norms:
            _check_learns(recipe, key, options, data, model, images=least)


def _training(recipe: Recipe) -> Iterator[tuple[str, StageOptions, bool]]:
    """How stages train, each way once: where a recipe says it, and whether norm layers learn."""
    sections = {_regardless(options): name for name, options in recipe.stages.items()}
    told: set[tuple[str, bool]] = set()
    for network in networks(recipe):
        for stage in network.stages:
            if stage.options is None:
                continue
            own = f"{network.name.rpartition('-')[0]}.{stage.name}"
            key = sections.get(_regardless(stage.options), own)
            norms = stage.name != "prune" or getattr(network.pruner, "train_norms", True)
            if (key, norms) not in told:
                told.add((key, norms))
                yield key, stage.options, norms


def _regardless(options: StageOptions) -> str:
    """What tells ways of training apart, however long they take."""
    return options.model_copy(update={"epochs": 1}).model_dump_json(serialize_as_any=True)


def _check_steps(key: str, options: StageOptions, data: Splits, world: int) -> int:
    """The number of images that each batch has beside the labelled ones."""
    train = data.train
    if not train:
        raise UsageError(f"{key}: the dataset has no training images.")
    if not train.steps(options.batch_size, world=world):
        count = len(train)
        remedy = (
            f"--set {key}.batch_size={count}, or more images"
            if count >= world
            else "fewer processes"
        )
        raise UsageError(
            f"{key}: no step in {count} image{'s' * (count > 1)}, by {world} process"
            f"{'es' * (world > 1)}: a batch that is not full needs {2 * world}. Use {remedy}."
        )
    return int(getattr(train, "per_batch", 0))


def _least(key: str, options: StageOptions, extra: int, world: int) -> int:
    """How many images the network sees at once, on each process: 1, or 2 and more."""
    total = options.batch_size + extra
    if options.accumulate > total:
        raise UsageError(
            f"{key}.accumulate: a batch of {total} cannot be cut into {options.accumulate} parts. "
            f"Use {total} at most."
        )
    return min(max(total // options.accumulate // world, 1), 2)


def _check_learns(
    recipe: Recipe,
    key: str,
    options: StageOptions,
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
        remedy = f"Use --set {key}.batch_size={2 * options.accumulate} or more"
        if options.accumulate > 1:
            remedy += f", or accumulate={max(options.batch_size // 2, 1)} or less"
        if images > 1:
            remedy = "Choose another model, or larger images"
        raise UsageError(
            f"{key}: model '{recipe.model.name}' cannot learn from {images} "
            f"image{'s' * (images > 1)} at a time ({first_line(error)}). {remedy}."
        ) from None
