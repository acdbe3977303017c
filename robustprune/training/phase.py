"""A phase: pretrain, prune or finetune. All that differs is which tensors are trainable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from robustprune.masking import MaskedModel
from robustprune.training.optimizers import OptimizerPart
from robustprune.training.schedules import Schedule

PhaseName = Literal["pretrain", "prune", "finetune"]

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One training of one network.

    Attributes:
        name: pretrain, prune or finetune.
        network: the network's name in the run, e.g. ``hydra-0.01``.
        epochs: passes over the labelled training images.
        batch_size: labelled images an optimizer step.
        accumulate: parts each batch is cut into, to save memory.
        select: hand on the last weights, or those with the lowest validation loss.
        optimizer: made anew for the phase.
        schedule: factor on its learning rate.
        trainable: the tensors that move.
        frozen: modules that stay in eval mode (norm layers whose statistics must not move).
        materialised: opened around each step and each validation.
        settle: called after the last step of an epoch, before the network is judged and saved:
            masks are renewed from the scores that the step left.
        watch: numbers to note after each epoch, e.g. the turnover.
    """

    name: PhaseName
    network: str
    epochs: int
    batch_size: int
    accumulate: int = 1
    select: Literal["last", "best"] = "last"
    optimizer: OptimizerPart
    schedule: Schedule
    trainable: Sequence[nn.Parameter]
    frozen: Sequence[nn.Module] = ()
    materialised: Callable[[], AbstractContextManager[None]] = nullcontext
    settle: Callable[[], None] = lambda: None
    watch: Callable[[], dict[str, float]] = field(default=dict)


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Batch, instance, layer and group norms."""
    return [module for module in model.modules() if isinstance(module, _NORMS)]


def score_tensors(masked: MaskedModel, *, norms: bool) -> list[nn.Parameter]:
    """What the prune phase trains: the scores, and the norm layers' affine parameters."""
    affine = [p for layer in norm_layers(masked.model) for p in layer.parameters()]
    return masked.score_parameters() + (affine if norms else [])


def weight_tensors(masked: MaskedModel) -> list[nn.Parameter]:
    """What the finetune phase trains: everything but the scores."""
    scores = {id(parameter) for parameter in masked.score_parameters()}
    return [parameter for parameter in masked.model.parameters() if id(parameter) not in scores]
