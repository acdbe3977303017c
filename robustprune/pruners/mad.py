"""Masking adversarial damage: prune what the robust loss's curvature says least of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.components import PartOf
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.masking.prunable import ends
from robustprune.objectives import Objective
from robustprune.pruners import register
from robustprune.pruners.base import SCORING, Context, Method, Stage
from robustprune.pruners.curvature import as_images, layer_inputs, products, refusals
from robustprune.pruners.magnitude import OneShot
from robustprune.train_mode import eval_mode
from robustprune.types import Images

START = math.log(math.e - 1)
"""Where softplus is 1: masks begin there, and go no higher."""
LEAST = math.log(math.expm1(1e-4))
"""Where softplus is 1e-4: masks go no lower."""


@register("mad")
class Mad(OneShot):
    """Remove the weights by whose masking the loss under attack, to second order, grows least.

    On each batch the images are attacked, the network in eval mode, and a mask ``softplus(m)`` of
    each weight, 1 at first, within [1e-4, 1], takes ``steps`` steps of Adam that minimise the
    objective on them. Then ``δ = w − w·mask`` and a weight's saliency is
    ``½·δ_ij·G_ii·(Aδ_i)_j``, its part of ``½·δᵀHδ``: H = A⊗G is K-FAC's, of the network as it is
    masked, G's diagonal alone. A is the mean over images of Σxxᵀ over the positions of the layer's
    inputs x, and G_ii the mean over images and positions of the squared gradient of an image's
    cross-entropy by output i. Saliencies are averaged over ``batches``; the smallest go. Those of
    the layer that gives the logits, where it is linear, are compared within their row alone, so
    that each class loses the same share: each stands for the saliency of the other layers at the
    same quantile.

    As in the source a part can be negative, and a weight whose mask stays at 1 has saliency 0: it
    goes before all that are above, though masking it would hurt. On a small network without norms
    that left nothing to finetune: it stayed at chance.

    Unlike there, biases are neither masked nor removed; the masks
    minimise, and the finetuning too, the recipe's objective, where the source has cross-entropy
    and then MART; the attack is the objective's. Its reference sums over all of the training
    images, and calls its finetuning with an argument missing, so that it ends there. An objective
    that attacks nothing has its own loss minimised on clean images, which K-FAC is then taken on.
    """

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "global"})]
    """One threshold for the network, as in the source."""
    batch_size: int = Field(128, ge=1)
    """Images of a batch."""
    batches: int | None = Field(8, ge=1)
    """Batches to average over; null, as in the source: all of the training images."""
    steps: int = Field(20, ge=1)
    """Steps of Adam on the masks of each batch."""
    lr: float = Field(0.1, gt=0)
    """Adam's learning rate."""

    source = "Lee, Kim, Ro 2022, Masking adversarial damage, CVPR 2022"
    cost = "1 attack and 21 passes a batch, for 8 batches; then 1 training of weights"

    def problems(self, stage: Stage, objective: Objective) -> Iterator[str]:
        """Other structures than weights, and objectives that cannot attack alone."""
        yield from super().problems(stage, objective)
        yield from refusals(self, objective, attacks=True)

    def method(self, context: Context) -> Method:
        """A fresh method, which scores and masks."""
        return MadMethod(self, context)


class MadMethod(Method):
    """The mask is set in `begin`."""

    pruner: Mad

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep what is most salient, class by class in the last layer."""
        saliency = self.saliency(stage, masked)
        lowest = min(float(values.min()) for values in saliency.values())
        importance = {name: values - lowest for name, values in saliency.items()}
        outputs = linear_outputs(masked)
        others = [values.flatten() for name, values in importance.items() if name not in outputs]
        for name in outputs if others else ():
            importance[name] = at_quantiles(importance[name], torch.cat(others))
        self.keep(masked, importance)

    def saliency(self, stage: Stage, masked: MaskedModel) -> dict[str, Tensor]:
        """The mean saliency of each weight, in doubles."""
        objective = self.objective(stage).fresh()
        total = {n: torch.zeros_like(w, dtype=torch.double) for n, w in masked.weights.items()}
        count = 0
        for weight in masked.weights.values():
            weight.requires_grad_(True)
        with self.drawing(), eval_mode(masked.model):
            for batch in islice(self.context.batches(self.pruner.batch_size), self.pruner.batches):
                for name, values in self.of_batch(objective, masked, batch).items():
                    total[name] += values
                count += 1
        return {name: values / count for name, values in total.items()}

    def of_batch(
        self, objective: Objective, masked: MaskedModel, batch: Images
    ) -> dict[str, Tensor]:
        """The saliency on one batch."""
        images, labels = batch
        with masked.cached():
            attacked = objective.attack(masked.model, images, labels, SCORING)
        attacked = None if attacked is None else attacked.detach()
        dense = {name: weight.detach().clone() for name, weight in masked.weights.items()}
        try:
            self.mask(objective, masked, dense, images, attacked, labels)
            seen = images if attacked is None else as_images(attacked, images)
            inputs, outputs = kfac(masked, seen, labels.repeat(len(seen) // len(images)))
            moved = {n: dense[n] - w.detach() for n, w in masked.weights.items()}
        finally:
            for name, weight in masked.weights.items():
                weight.data.copy_(dense[name])
        return {n: quadratic_parts(d, inputs[n], outputs[n]) for n, d in moved.items()}

    def mask(
        self,
        objective: Objective,
        masked: MaskedModel,
        dense: dict[str, Tensor],
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
    ) -> None:
        """Leave the weights times the masks that minimise the objective."""
        weights = list(masked.weights.values())
        raw = [torch.full_like(weight, START, requires_grad=True) for weight in weights]
        adam = torch.optim.Adam(raw, lr=self.pruner.lr)
        for _ in range(self.pruner.steps):
            with masked.cached():
                loss = objective.loss(masked.model, images, attacked, labels, SCORING)
                gradients = torch.autograd.grad(loss.total, weights, materialize_grads=True)
            with torch.no_grad():
                for m, gradient, whole in zip(raw, gradients, dense.values(), strict=True):
                    m.grad = gradient * whole * m.sigmoid()  # softplus' = sigmoid
                adam.step()
                for m, weight, whole in zip(raw, weights, dense.values(), strict=True):
                    weight.data.copy_(whole * F.softplus(m.clamp_(LEAST, START)))


def linear_outputs(masked: MaskedModel) -> list[str]:
    """The weights of linear layers that give the logits."""
    outputs = ends(masked.model).outputs
    return [
        name
        for name, (layer, *_) in masked.layers.items()
        if name.removesuffix("weight").removesuffix(".") in outputs and isinstance(layer, nn.Linear)
    ]


def kfac(
    masked: MaskedModel, images: Tensor, labels: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The factors A, ``(groups, d, d)``, and G's diagonal, ``(out,)``, of each layer; doubles.

    A is the mean over images of Σxxᵀ over the positions of inputs x; G's diagonal is the mean over
    images and positions of the squares of the gradients of an image's cross-entropy by outputs.
    """
    outputs: list[tuple[str, nn.Module, Tensor]] = []
    hooks = [
        layer.register_forward_hook(partial(_keep_output, outputs, name))
        for name, layers in masked.layers.items()
        for layer in layers
    ]
    try:
        with masked.cached(), layer_inputs(masked) as inputs:
            loss = F.cross_entropy(masked.model(images), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, [output for _, _, output in outputs])
    finally:
        for hook in hooks:
            hook.remove()
    squares: dict[str, list[Tensor]] = {name: [] for name in masked.weights}
    for (name, layer, _), gradient in zip(outputs, gradients, strict=True):
        last = gradient.movedim(1, -1) if isinstance(layer, nn.Conv2d) else gradient
        squares[name].append(last.double().square().flatten(0, -2))
    means = {name: torch.cat(parts).mean(0) for name, parts in squares.items()}
    return {name: moment / len(images) for name, moment in inputs.items()}, means


def _keep_output(
    outputs: list[tuple[str, nn.Module, Tensor]], name: str, layer: nn.Module, given: Any, out: Any
) -> Tensor:
    outputs.append((name, layer, out))
    copied: Tensor = out.clone()  # what follows may work in place: ReLU(inplace=True)
    return copied


def quadratic_parts(moved: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """``½·δ_ij·G_ii·(Aδ_i)_j``: what each weight adds to ``½·δᵀ(A⊗G)δ``, G's diagonal alone.

    Args:
        moved: δ, ``(out, in, …)``.
        inputs: A, ``(groups, d, d)``.
        outputs: G's diagonal, ``(out,)``.
    """
    rows = moved.flatten(1).double()
    return (rows * outputs[:, None] * products(rows, inputs) / 2).view(moved.shape)


def at_quantiles(values: Tensor, others: Tensor) -> Tensor:
    """The values of ``others`` at the ranks that ``values`` have in their rows; of their shape."""
    rows = values.flatten(1)
    ranks = rows.argsort(dim=1, stable=True).argsort(dim=1)
    places = (2 * ranks + 1) * len(others) // (2 * rows.shape[1])
    return others.sort().values[places].view(values.shape)
