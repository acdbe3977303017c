"""Networks in one of HYDRA's stages, as the pipeline makes them, for benchmarks to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from robustprune import objectives, pruners
from robustprune.masking import MaskedModel, attach, structures
from robustprune.objectives import Objective
from robustprune.pruners import Context, Method, Stage
from robustprune.recipe import StageOptions

STAGES = ("pretrain", "prune", "finetune")


class Prepared(NamedTuple):
    """A network at the beginning of a stage."""

    stage: Stage
    masked: MaskedModel
    method: Method

    @property
    def trained(self) -> list[nn.Parameter]:
        """The tensors that the stage trains."""
        groups = self.method.param_groups(self.stage, self.masked)
        return [parameter for group in groups for parameter in group["params"]]

    def select(self) -> None:
        """Renew the masks, as after each optimizer step."""
        self.method.select(self.stage, self.masked)


def prepared(
    model: nn.Module,
    stage: str = "prune",
    *,
    density: float = 0.1,
    options: Mapping[str, StageOptions] | None = None,
    objective: Objective | None = None,
) -> Prepared:
    """Put a network into a stage; only what it trains asks for gradients.

    Args:
        model: changed in place.
        stage: one of `STAGES`.
        density: fraction of the weights to keep.
        options: of a recipe's sections; the defaults if absent.
        objective: the recipe's.
    """
    options = options or dict.fromkeys(STAGES, StageOptions(epochs=1))
    if stage == "pretrain":
        masked = MaskedModel(model, [], structure=structures.create("weight"))
        found = Prepared(Stage(stage, options[stage]), masked, Method())
    else:
        found = _pruning(model, stage, density, options, objective)
    model.requires_grad_(False)
    for parameter in found.trained:
        parameter.requires_grad_(True)
    return found


def _pruning(
    model: nn.Module,
    stage: str,
    density: float,
    options: Mapping[str, StageOptions],
    objective: Objective | None,
) -> Prepared:
    pruner = pruners.create("hydra")
    masked = attach(model, structure=pruner.structure)
    method = pruner.method(
        Context(
            density=density,
            objective=objective or objectives.create("benign"),
            generator=torch.Generator().manual_seed(0),
            batches=lambda size, per_class=None: iter(()),
            checkpoints={},
        )
    )
    for each in pruner.stages(density, options):
        method.prepare(each, masked)
        method.begin(each, masked)
        if each.name == stage:
            return Prepared(each, masked, method)
    raise ValueError(f"hydra has no stage '{stage}'")
