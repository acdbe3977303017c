"""A network whose weights are masked, in place, on its own layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robustprune.errors import UsageError
from robustprune.masking import allocations
from robustprune.masking.allocations import Allocation
from robustprune.masking.layer import ScoreMask
from robustprune.masking.prunable import prunable_weights
from robustprune.masking.scores import ScoreInit, init_scores
from robustprune.masking.topk import keep_largest
from robustprune.plain import drop_parametrizations


@dataclass(frozen=True)
class LayerReport:
    """What a mask keeps of one layer."""

    name: str
    shape: tuple[int, ...]
    kept: int
    total: int

    @property
    def density(self) -> float:
        """Fraction kept, in (0, 1]."""
        return self.kept / self.total


def attach(
    model: nn.Module,
    *,
    density: float,
    allocation: str | Allocation = "uniform",
    scores: ScoreInit | Callable[[Tensor], Tensor] = "scaled_magnitude",
) -> MaskedModel:
    """Mask every prunable weight of ``model``, in place.

    All is checked before anything is changed.

    Args:
        model: any network with Conv2d or Linear layers that are not masked yet.
        density: fraction of the prunable weights to keep, in (0, 1].
        allocation: a registered name or an instance.
        scores: how the scores start, by name, or a function from a layer's weight to scores of
            its shape. Random ones draw from the global generator.

    Raises:
        UsageError: density out of range, nothing in ``model`` can be masked, or a weight of it
            cannot be masked exactly. ``model`` is as it was then.
    """
    if not 0 < density <= 1:
        raise UsageError(f"density {density} is not in (0, 1]. For 99 % sparsity write 0.01.")
    if isinstance(allocation, str):
        allocation = allocations.create(allocation)
    prunables = prunable_weights(model)
    masks = {
        prunable.name: ScoreMask(init_scores(prunable.weight, scores)) for prunable in prunables
    }
    for prunable in prunables:
        for layer in prunable.layers.values():
            parametrize.register_parametrization(layer, "weight", masks[prunable.name], unsafe=True)
    layers = [layer for prunable in prunables for layer in prunable.layers.values()]
    masked = MaskedModel(model, masks, layers=layers, density=density, allocation=allocation)
    masked.select()
    for mask in masks.values():
        mask.initial.copy_(mask.mask)
    return masked


class MaskedModel:
    """The masks of one network; made by `attach`.

    Attributes:
        model: the network itself, which computes with its masked weights.
        masks: each prunable weight's `ScoreMask`, by its layer's name. Layers that share a weight
            share its mask, and the first stands for all.
        density: the fraction of all prunable weights that was asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, ScoreMask],
        *,
        layers: Sequence[nn.Module],
        density: float,
        allocation: Allocation,
    ) -> None:
        self.model = model
        self.masks = dict(masks)
        self._layers = layers
        self.density = density
        self.allocation = allocation

    @torch.no_grad()
    def select(self) -> None:
        """Renew every mask from the scores: exactly the allocated number of largest |score|."""
        counts = self.allocation({n: m.scores for n, m in self.masks.items()}, self.density)
        for name, mask in self.masks.items():
            mask.mask.copy_(keep_largest(mask.scores.abs(), counts[name]))

    @contextmanager
    def materialised(self) -> Iterator[None]:
        """Compute each masked weight once for everything inside, backward included.

        Masks are renewed first if the scores are trainable. The weights are touched here, with
        gradients enabled if they are outside: the cache keeps what is computed first, and a
        `no_grad` forward inside an attack would otherwise cache weights without a graph.
        """
        if self.learning:
            self.select()
        with parametrize.cached():
            for layer in self._layers:
                _ = layer.weight
            yield

    @property
    def learning(self) -> bool:
        """Whether the scores are trainable."""
        return any(mask.scores.requires_grad for mask in self.masks.values())

    def score_parameters(self) -> list[nn.Parameter]:
        """The scores, a tensor a layer."""
        return [mask.scores for mask in self.masks.values()]

    @property
    def kept(self) -> int:
        """Number of prunable weights that the masks keep."""
        return sum(mask.kept for mask in self.masks.values())

    @property
    def prunable(self) -> int:
        """Number of prunable weights."""
        return sum(mask.mask.numel() for mask in self.masks.values())

    @property
    def turnover(self) -> float:
        """Share of the kept positions that the initial scores did not keep, in [0, 1]."""
        return sum(mask.replaced for mask in self.masks.values()) / self.kept

    def report(self) -> list[LayerReport]:
        """What is kept of each layer, in the network's order."""
        return [
            LayerReport(name, tuple(mask.mask.shape), mask.kept, mask.mask.numel())
            for name, mask in self.masks.items()
        ]

    def bake(self) -> dict[str, Tensor]:
        """Write the masked weights into the plain network and remove the parametrizations.

        Returns:
            Each masked parameter's mask by the parameter's name (``conv1.weight``).
        """
        for layer in self._layers:
            drop_parametrizations(layer)
            layer.weight.requires_grad_(True)
        return {f"{name}.weight".removeprefix("."): m.mask for name, m in self.masks.items()}
