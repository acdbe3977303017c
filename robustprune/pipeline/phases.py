"""From a recipe's options to the phases of its networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from robustprune.errors import UsageError
from robustprune.pruners import LearnedPruner, OneShotPruner, Pruner
from robustprune.seeding import derive
from robustprune.training.phase import Phase, norm_layers, norm_tensors, weight_tensors
from robustprune.types import PhaseName

if TYPE_CHECKING:
    from torch import nn

    from robustprune.datasets import Splits
    from robustprune.masking import MaskedModel
    from robustprune.recipe import PhaseOptions, Recipe


def pretraining(recipe: Recipe, network: str, model: nn.Module) -> list[Phase]:
    """What trains a dense network, all of it; nothing, if it comes with its weights."""
    if recipe.pretrain is None:
        return []
    return [_phase("pretrain", network, recipe.pretrain, trainable=list(model.parameters()))]


def pruning(recipe: Recipe, network: str, method: Pruner, masked: MaskedModel) -> list[Phase]:
    """What follows once a network is masked: prune, if the method learns, and finetune.

    Args:
        recipe: with a ``prune`` section, and a ``finetune`` section if there is to be one.
        network: the network's name in the run.
        method: the pruner that masked it.
        masked: the network's masks.
    """
    phases = []
    assert recipe.prune is not None
    if isinstance(method, LearnedPruner):
        phases.append(
            _phase(
                "prune",
                network,
                recipe.prune,
                trainable=masked.score_parameters(),
                norms=norm_tensors(masked.model) if method.train_norms else (),
                norm_lr=recipe.prune.norm_lr,
                frozen=() if method.train_norms else norm_layers(masked.model),
                materialised=masked.materialised,
                settle=masked.select,
                watch=lambda: {"turnover": masked.turnover},
            )
        )
    if recipe.finetune is not None:
        weights = weight_tensors(masked)
        phases.append(
            _phase(
                "finetune",
                network,
                recipe.finetune,
                epochs=finetune_epochs(recipe, method),
                trainable=weights,
                materialised=masked.materialised,
            )
        )
    return phases


def finetune_epochs(recipe: Recipe, method: Pruner) -> int:
    """Epochs of a method's finetune phase."""
    assert recipe.prune is not None
    if recipe.finetune is None:
        return 0
    equal = isinstance(method, OneShotPruner) and method.equal_compute
    return recipe.finetune.epochs + (recipe.prune.epochs if equal else 0)


def phase_data(recipe: Recipe, data: Splits, name: PhaseName) -> Splits:
    """What a phase learns from: the prune phase from ``prune.share`` of the training images.

    Larger shares hold the smaller ones, because all are the first of one random order.

    Raises:
        UsageError: the share is less than two images.
    """
    if name != "prune" or recipe.prune is None or recipe.prune.share == 1:
        return data
    assert data.train is not None
    share, total = recipe.prune.share, len(data.train)
    count = round(share * total)
    if count < 2:
        raise UsageError(f"prune.share: {share:g} of {total} training images is fewer than two.")
    generator = torch.Generator().manual_seed(derive(recipe.seed, "prune", "share"))
    chosen = torch.randperm(total, generator=generator)[:count]
    return replace(data, train=data.train.select(chosen.sort().values))


def _phase(name: PhaseName, network: str, options: PhaseOptions, **rest: Any) -> Phase:
    return Phase(
        name=name,
        network=network,
        epochs=rest.pop("epochs", options.epochs),
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        select=options.select,
        optimizer=options.optimizer,  # type: ignore[arg-type]
        schedule=options.schedule,  # type: ignore[arg-type]
        **rest,
    )
