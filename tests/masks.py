"""Networks that are masked by magnitude, for tests."""

from __future__ import annotations

from torch import nn

from robustprune.masking import MaskedModel, allocations, attach, select


def pruned(model: nn.Module, density: float, *, allocation: str = "uniform") -> MaskedModel:
    """The network, of which the largest weights are kept."""
    masked = attach(model)
    sizes = {name: weight.detach().abs() for name, weight in masked.weights.items()}
    part = allocations.create(allocation)
    masked.set(select(sizes, density, allocation=part, structure=masked.structure))
    return masked


def learning(model: nn.Module, density: float) -> MaskedModel:
    """As HYDRA prunes: scores of the weights' signs and order are all that is trainable."""
    masked = pruned(model.requires_grad_(False), density)
    masked.add_scores(masked.weights)
    return masked


def renew(masked: MaskedModel, density: float, *, allocation: str = "uniform") -> None:
    """Set the masks that follow from the scores."""
    sizes = {name: score.detach().abs() for name, score in masked.scores.items()}
    part = allocations.create(allocation)
    masked.set(select(sizes, density, allocation=part, structure=masked.structure))
