"""Pruning, factorisation and quantisation of weights, each as a constraint on the robust loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from robustprune.components import PartOf
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.masking.selection import keep_largest
from robustprune.objectives import Objective
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress


@register("atmc")
class Atmc(Pruner):
    """Weights as sparse factors W = B·(A + I) + C, held to an L0 budget by projection.

    ``project`` trains the dense network's weights; after each step all but the largest, by the
    allocation, become 0. ``factorise`` trains A, B and C from B = W, A = C = 0; after each step
    all but the largest ``density · n`` entries of the three together become 0, n being the number
    of prunable weights. Then the product is multiplied out, and ``finetune`` trains what the mask
    of its largest entries keeps. With ``bits``, kept weights end on few values a layer.

    W is seen as an (out, in·kh·kw) matrix, and A + I is the square factor of its smaller side: to
    the right of B, or to its left, ``(A + I)·B``, in layers of fewer outputs than inputs.

    In the source the factors are what is stored: its budget counts entries of A, B and C, so that
    its ratio is one of file sizes, and their product may have many more weights than the budget,
    or fewer. Such ratios are no densities; here the network ends at the asked density of weights,
    which the source never selects, by a finetuning that it does not have. If the product has fewer
    entries than that, entries at 0 are kept too, and finetuning can give them values. No layer has
    a floor in the source; here each keeps a weight.

    An entry enters the budget if one step carries it past the smallest one there, so that at low
    learning rates A and C stay nearly empty, and the product is B: see the curve ``outside_b``.

    Source's setting: 200 epochs a stage at learning rates 0.05 (dense), 0.01 and 0.005, and half
    the loss on clean images, half under PGD-7 at 4/255, which compares with no other method.
    """

    still = ("finetune",)
    source = "Gui et al. 2019, Model compression with adversarial robustness, arXiv 1902.03538"
    cost = "3 trainings of weights, one of them with 2 to 3 times as many"

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "global"})]
    """One threshold for the network, as in the source; of weights, and of factors, to which its
    ``minimum`` does not apply: they make up no filters."""
    bits: int | None = Field(None, ge=1, le=16)
    """After finetuning, let the kept weights of each layer take 2^bits values at most, by k-means.
    The source, where 0 is one of the values, trains with a quantised copy that ADMM draws weights
    to (ρ 0.1, renewed every 5 to 10 steps); here the network that is judged is the quantised one,
    at the price of no training after. Files do not become smaller by it."""
    project: StageChanges = StageChanges()
    """Changes to ``finetune`` for the projected weights."""
    factorise: StageChanges = StageChanges()
    """Changes to ``finetune`` for the factors."""
    finetune: StageChanges = StageChanges()
    """Changes to ``finetune`` for what is left."""

    def problems(self, stage: Stage, objective: Objective) -> Iterator[str]:
        """An allocation that factors cannot have."""
        yield from super().problems(stage, objective)
        if self.allocation.registered_name == "uniform_plus":
            yield (
                "allocation 'uniform_plus' keeps layers' shares of weights, and they have several "
                "times as many factors: use allocation: global, or erk"
            )

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """Three trainings, as ``finetune`` says, and the quantisation."""
        options = self.section("finetune", recipe)
        changes = {n: getattr(self, n) for n in ("project", "factorise", "finetune")}
        stages = [Stage(name, own.over(options)) for name, own in changes.items()]
        return stages if self.bits is None else [*stages, Stage("quantise", None)]

    def method(self, context: Context) -> Method:
        """A fresh method, which projects."""
        return AtmcMethod(self, context)


class Factors(nn.Module):
    """The weight that a mask sees: C + B·(A + I), or C + (A + I)·B. C is the layer's own weight.

    Attributes:
        square: A, of the weight's smaller side as a matrix.
        other: B, of the weight's shape as a matrix.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        side = min(rows, columns)
        self.square = nn.Parameter(weight.new_zeros(side, side))
        self.other = nn.Parameter(weight.new_zeros(rows, columns))

    def forward(self, weight: Tensor) -> Tensor:
        """The product, of the weight's shape."""
        square = self.square + torch.eye(len(self.square)).to(self.square)
        right = len(square) == self.other.shape[1]
        product = self.other @ square if right else square @ self.other
        return weight + product.view(weight.shape)

    @torch.no_grad()
    def take(self, weight: Tensor) -> None:
        """Move a weight, which becomes 0, into B; A becomes 0."""
        self.other.copy_(weight.flatten(1))
        self.square.zero_()
        weight.zero_()

    @torch.no_grad()
    def give(self, weight: Tensor) -> None:
        """Multiply out into the weight; A and B become 0."""
        weight.copy_(self(weight))
        self.other.zero_()
        self.square.zero_()


class AtmcMethod(Method):
    """Projects after each step; the mask is set where ``finetune`` begins."""

    def __init__(self, pruner: Atmc, context: Context) -> None:
        super().__init__(pruner, context)
        self.factors: dict[str, Factors] = {}

    def prepare(self, stage: Stage, masked: MaskedModel) -> None:
        """Factors, from the second stage on; they stay, and are 0 where they no longer train."""
        if stage.name != "project":
            masked.reparametrize(self._factors)

    def _factors(self, name: str, weight: Tensor) -> Factors:
        self.factors[name] = Factors(weight)
        return self.factors[name]

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Take the weights into factors; or out of them, and the mask; or few values."""
        if stage.name == "factorise":
            for name, factors in self.factors.items():
                factors.take(masked.weights[name])
        elif stage.name == "finetune":
            for name, factors in self.factors.items():
                factors.give(masked.weights[name])
            self.keep(masked, {n: weight.detach().abs() for n, weight in masked.weights.items()})
        elif stage.name == "quantise":
            for name, mask in masked.masks.items():
                weight = masked.weights[name].data
                weight[mask] = clustered(weight[mask], 2**self.pruner.bits)

    def param_groups(self, stage: Stage, masked: MaskedModel) -> list[dict[str, Any]]:
        """Everything; but no factors while their product is finetuned."""
        groups = super().param_groups(stage, masked)
        if stage.name != "finetune":
            return groups
        factors = {id(p) for one in self.factors.values() for p in one.parameters()}
        return [{"params": [p for p in groups[0]["params"] if id(p) not in factors]}]

    @torch.no_grad()
    def after_step(
        self, stage: Stage, masked: MaskedModel, optimizer: Optimizer, progress: Progress
    ) -> None:
        """Project the weights, or the factors."""
        if stage.name == "project":
            sizes = {name: weight.abs() for name, weight in masked.weights.items()}
            for name, mask in self.masks(masked, sizes, self.context.density).items():
                masked.weights[name].mul_(mask)
        elif stage.name == "factorise":
            self._project_factors(masked)

    def _project_factors(self, masked: MaskedModel) -> None:
        parts = self._parts(masked)
        sizes = {name: flat(own).abs() for name, own in parts.items()}
        total = sum(size.numel() for size in sizes.values())
        shapes = {name: weight.shape for name, weight in masked.weights.items()}
        budget = self.context.density * masked.prunable / total
        allocation = self.pruner.allocation.model_copy(update={"minimum": 0})
        for name, count in allocation(sizes, budget, shapes).items():
            lengths = [part.numel() for part in parts[name]]
            masks = torch.split(keep_largest(sizes[name], count), lengths)
            for part, mask in zip(parts[name], masks, strict=True):
                part.mul_(mask.view(part.shape))

    @torch.no_grad()
    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """The share of weights that the product has, and that of factors which A and C have."""
        if stage.name != "factorise":
            return {}
        filled, parts = _filled(masked.unmasked().values()), self._parts(masked).values()
        in_b, everywhere = _filled(b for _, b, _ in parts), _filled(p for own in parts for p in own)
        return {
            "product_density": filled / masked.prunable,
            "outside_b": (everywhere - in_b) / max(everywhere, 1),
        }

    def _parts(self, masked: MaskedModel) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """C, B and A of each layer."""
        weights, factors = masked.weights, self.factors.items()
        return {name: (weights[name], own.other, own.square) for name, own in factors}


def _filled(tensors: Iterable[Tensor]) -> int:
    return sum(int(tensor.count_nonzero()) for tensor in tensors)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries in one row, each tensor's in its own order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def clustered(values: Tensor, count: int) -> Tensor:
    """Each value's nearest of ``count`` means: Lloyd's k-means from quantiles, without draws.

    Args:
        values: one row.
        count: of clusters; no more different values than that stay as they are.
    """
    ordered = values.detach().cpu().double().sort()[0]  # sums on a GPU depend on its scheduling
    means: Tensor = torch.unique(ordered)
    if len(means) <= count:
        return values
    places = (torch.arange(count) + 0.5) / count * len(ordered)
    means = torch.unique(ordered[places.long()])
    for _ in range(100):
        codes = torch.bucketize(ordered, (means[1:] + means[:-1]) / 2)
        sizes = codes.bincount(minlength=len(means))
        sums = torch.zeros_like(means).index_add_(0, codes, ordered)
        before, means = means, torch.where(sizes > 0, sums / sizes.clamp_min(1), means)
        if torch.equal(before, means):
            break
    means = means.to(values)
    return means[torch.bucketize(values, (means[1:] + means[:-1]) / 2)]
