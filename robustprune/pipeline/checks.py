"""Checks of a run before anything is trained or written."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from robustprune.datasets import Splits
from robustprune.errors import UsageError, first_line
from robustprune.masking import attach
from robustprune.pipeline.networks import networks, pruners_of
from robustprune.pipeline.run_folder import RunFolder
from robustprune.recipe import Recipe, StageOptions
from robustprune.seeding import fork

_STATE = 3  # times the network: its weights, an optimizer's moments, scores or a copy


def check_maskable(recipe: Recipe, model: nn.Module) -> None:
    """Make sure that every pruner can mask the network, and share out each density.

    Raises:
        UsageError: a weight of it cannot be masked exactly, a pattern of layers fits none, or an
            allocation cannot keep what it must.
    """
    densities = [] if recipe.prune is None else recipe.prune.densities
    for pruner in pruners_of(recipe):
        where, shape = pruner.allocation, pruner.structure
        try:
            masked = attach(copy.deepcopy(model), exclude=pruner.exclude, structure=shape)
            weights = masked.weights.items()
            entries = {name: shape.reduce(weight.detach().abs()) for name, weight in weights}
            shapes = {name: weight.shape for name, weight in weights}
            for density in densities:
                where(entries, density, shapes)
        except UsageError as error:
            raise UsageError(f"pruner '{pruner.variant}': {error}") from None


def check_room(recipe: Recipe, model: nn.Module, place: Path) -> None:
    """Make sure that the disk has room for about what a run will still write there.

    A disk that becomes full all the same ends the run, which can be resumed. ``place`` is the run's
    folder, whose files are not counted again, or one above it; it need not exist.

    Raises:
        UsageError: it has too little.
    """
    one = sum(tensor.nbytes for tensor in model.state_dict().values())
    size, folder = 0, RunFolder(place)
    for network in networks(recipe):
        if not folder.model(network.name).exists():
            states = [folder.state(network.name, stage.name) for stage in network.stages]
            size += one * (1 + _STATE * sum(not path.exists() for path in states))
    place = place.absolute()
    place = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise UsageError(
            f"the disk of {place} has {free / 1e6:,.1f} MB left, and the run would write about "
            f"{size / 1e6:,.1f} MB there. Make room, or name a folder on another disk with --out."
        )


def check_counts(
    recipe: Recipe, data: Splits, model: nn.Module, *, world: int = 1, max_steps: int | None = None
) -> None:
    """Make sure that each stage takes steps, on batches that the network learns from.

    The dense network, trained or not, is on the CPU and stays as it is.

    Raises:
        UsageError: a split is empty, a stage would take no step, or a batch, or a part of one, is
            too small for the network's norm layers or the processes (``world``).
    """
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps: {max_steps} leaves nothing to train. Use 1 or more.")
    if recipe.evaluate and not data.test:
        raise UsageError("evaluate: the dataset has no test images. Leave 'evaluate' out.")
    if data.validation is not None and not len(data.validation):
        raise UsageError("data.validation: it holds no image back. Use a larger share, or none.")
    for key, options, norms in _stages(recipe):
        try:
            train = data.part(options.share, seed=recipe.seed).train
        except UsageError as error:
            raise UsageError(f"{key}.{error}") from None
        if not train:
            raise UsageError(f"{key}: the dataset has no training images.")
        if world > 1 and options.batch_size < 2 * world:  # BatchNorm needs two
            raise UsageError(
                f"{key}.batch_size: {options.batch_size} images cannot be shared among {world} "
                f"processes. Start fewer, or --set {key}.batch_size={2 * world}."
            )
        if not train.steps(options.batch_size, world=world):
            count = len(train)
            remedy = f"--set {key}.batch_size={count}, or more images"
            raise UsageError(
                f"{key}: no step in {count} image{'s' * (count > 1)}, by {world} process"
                f"{'es' * (world > 1)}: a batch that is not full needs {2 * world}. "
                f"Use {remedy if count >= world else 'fewer processes'}."
            )
        total = options.batch_size + int(getattr(train, "per_batch", 0))
        if options.accumulate > total:
            raise UsageError(
                f"{key}.accumulate: a batch of {total} cannot be cut into {options.accumulate} "
                f"parts. Use {total} at most."
            )
        if norms:
            least = min(max(total // options.accumulate // world, 1), 2)
            _check_learns(recipe, key, options, data, model, images=least)


def _stages(recipe: Recipe) -> Iterator[tuple[str, StageOptions, bool]]:
    """Each way of training once: its place in the recipe, and True if norm layers learn in it."""
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
    """The options that tell ways of training apart, however long they take."""
    return options.model_copy(update={"epochs": 1}).model_dump_json()


def _check_learns(
    recipe: Recipe, key: str, options: StageOptions, data: Splits, model: nn.Module, *, images: int
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
