"""A phase: pretrain, prune or finetune. All that differs is which tensors are trainable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from robustprune.masking import MaskedModel
from robustprune.training.optimizers import OptimizerPart
from robustprune.training.schedules import Schedule
from robustprune.types import PhaseName

if TYPE_CHECKING:
    from torch.optim import Optimizer

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


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
        norms: norm layers' parameters that move too, where they have a learning rate of their own.
        norm_lr: that rate; the optimizer's if None.
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
    norms: Sequence[nn.Parameter] = ()
    norm_lr: float | None = None
    frozen: Sequence[nn.Module] = ()
    materialised: Callable[[], AbstractContextManager[None]] = nullcontext
    settle: Callable[[], None] = lambda: None
    watch: Callable[[], dict[str, float]] = field(default=dict)

    def moving(self) -> list[nn.Parameter]:
        """All tensors that move."""
        return [*self.trainable, *self.norms]

    def build_optimizer(self) -> Optimizer:
        """A new optimizer over what moves."""
        if not self.norms:
            return self.optimizer.built(self.trainable)
        norms: dict[str, Any] = {"params": list(self.norms)}
        if self.norm_lr is not None:
            norms["lr"] = self.norm_lr
        return self.optimizer.built([{"params": list(self.trainable)}, norms])


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Batch, instance, layer, group and RMS norms of torch, and what extends them."""
    return [module for module in model.modules() if isinstance(module, _NORMS)]


def norm_tensors(model: nn.Module) -> list[nn.Parameter]:
    """The norm layers' affine parameters."""
    return [parameter for layer in norm_layers(model) for parameter in layer.parameters()]


def weight_tensors(masked: MaskedModel) -> list[nn.Parameter]:
    """What the finetune phase trains: everything but the scores."""
    scores = {id(parameter) for parameter in masked.score_parameters()}
    return [parameter for parameter in masked.model.parameters() if id(parameter) not in scores]
