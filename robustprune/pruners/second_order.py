"""Optimal brain compression: remove what changes a layer's outputs least, and refit the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from robustprune.masking import MaskedModel
from robustprune.objectives import Objective
from robustprune.pruners import register
from robustprune.pruners.base import SCORING, Context, Method, Stage
from robustprune.pruners.curvature import (
    BYTES,
    as_images,
    layer_inputs,
    products,
    reestimate_norms,
    refusals,
)
from robustprune.pruners.magnitude import OneShot
from robustprune.train_mode import eval_mode

STEPS = 64
"""Removals after which H⁻¹ is brought up to date."""


@register("obc")
class Obc(OneShot):
    """Layers pruned so that their outputs on attacked images change least, and refitted at once.

    In each layer, ``H = 2·Σxxᵀ/n + λI`` over the inputs x of the dense network, n images, patches
    for convolutions. A row w of weights loses, again and again, the one with the least
    ``w_j² / (2·[H⁻¹]_jj)``, which is what the squared error of the row's output then grows by; the
    others become ``w − H⁻¹[:, j]·w_j/[H⁻¹]_jj``, and j leaves H⁻¹. Layers remove the weights whose
    losses are smallest in all rows, a row's own order kept; the allocation ``global`` compares them
    between layers as shares of ``wᵀHw/2``, the energy of the layer's outputs. At last each row is
    the least-squares fit on what it keeps, which is what the updates come to: so no trace of
    weights is stored, and no rounding adds up. With no section ``finetune`` that is all.

    It takes ``rows·d³`` operations, d inputs of a row, and memory for each layer's H, d² doubles,
    and for the H⁻¹ of as many rows at once as fit into 64 MiB, some three times over; one row does
    always. Rows of more than ``exact`` inputs are cut into blocks of ``block`` inputs, each pruned
    by its own part of H as if the others stood still, ``rows·d·block²``; the fit is over all
    inputs again, and takes the cube of what a row keeps.

    Unlike the source: the images are attacked, and not augmented; H has λ always, where the source
    adds 1 if H cannot be inverted; a removal counts at least as much as those before it in its row,
    so that the choice is the greedy one of the layer, where the source counts raw losses and then
    takes as many from the row's start; between layers the source searches for the densities.
    """

    calibrate: Literal["adversarial", "both", "clean"] = "adversarial"
    """Images that H and norms are measured on: attacked as the objective does, clean ones too, or
    clean ones alone, which are taken too where an objective attacks nothing."""
    images: int = Field(1024, ge=1)
    """Images to measure on, in whole batches; the source's 1024, or all if there are fewer."""
    batch_size: int = Field(128, ge=1)
    """Images of a batch."""
    damp: float = Field(0.01, gt=0)
    """λ, as a share of the mean of H's diagonal; SparseGPT's 0.01."""
    exact: int = Field(576, ge=1)
    """Inputs of a row up to which it is pruned exactly."""
    block: int = Field(128, ge=1)
    """Inputs of a block of longer rows; SparseGPT's 128."""
    norms: bool = True
    """Measure BatchNorm's running statistics anew on the same images, as the source's ``--bnt``."""

    source = "Frantar, Alistarh 2022, Optimal brain compression, arXiv 2208.11580"
    cost = "1 attack and forward pass of 1024 images, d³ a row; then 1 training of weights, or none"

    def problems(self, stage: Stage, objective: Objective) -> Iterator[str]:
        """Other structures than weights, and objectives that cannot attack alone."""
        yield from super().problems(stage, objective)
        yield from refusals(self, objective, attacks=self.calibrate != "clean")

    def method(self, context: Context) -> Method:
        """A fresh method, which prunes and refits."""
        return ObcMethod(self, context)


class ObcMethod(Method):
    """Mask and weights are set in `begin`."""

    pruner: Obc

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Measure the curvature, choose, refit, and measure norms anew."""
        batches = self.batches(stage, masked)
        hessians = self.hessians(masked, batches)
        rows = {n: w.detach().flatten(1).double() for n, w in masked.weights.items()}
        losses = {n: self.losses(w, hessians[n]) for n, w in rows.items()}
        self.keep(masked, {n: loss.view(masked.weights[n].shape) for n, loss in losses.items()})
        for name, weight in masked.weights.items():
            mask = masked.masks[name]
            fitted = refit(rows[name], hessians[name], mask.flatten(1)).view(weight.shape)
            weight.data.copy_(torch.where(mask, fitted.to(weight.dtype), weight.detach()))
        if self.pruner.norms:
            reestimate_norms(masked, batches)

    def batches(self, stage: Stage, masked: MaskedModel) -> list[Tensor]:
        """The images to measure on."""
        pruner, found = self.pruner, []
        objective = self.objective(stage).fresh()
        count = math.ceil(pruner.images / pruner.batch_size)
        with self.drawing(), eval_mode(masked.model), masked.cached():
            for images, labels in islice(self.context.batches(pruner.batch_size), count):
                attacked = None
                if pruner.calibrate != "clean":
                    attacked = objective.attack(masked.model, images, labels, SCORING)
                if attacked is None or pruner.calibrate == "both":
                    found.append(images)
                if attacked is not None:
                    found.append(as_images(attacked, images))
        return found

    @torch.no_grad()
    def hessians(self, masked: MaskedModel, batches: list[Tensor]) -> dict[str, Tensor]:
        """``(groups, d, d)`` of each layer: ``2·Σxxᵀ/n + λI``."""
        with eval_mode(masked.model), masked.cached(), layer_inputs(masked) as moments:
            for images in batches:
                masked.model(images)
        scale = 2 / sum(len(images) for images in batches)
        return {n: damped(scale * moment, self.pruner.damp) for n, moment in moments.items()}

    def losses(self, rows: Tensor, hessian: Tensor) -> Tensor:
        """What removing each weight adds, as a share of the energy of the layer's outputs."""
        width = rows.shape[1]
        block = width if width <= self.pruner.exact else self.pruner.block
        energy = (products(rows, hessian) * rows).sum() / 2
        return removal_losses(rows, hessian, block=block) / energy.clamp_min(1e-300)


def damped(matrices: Tensor, share: float) -> Tensor:
    """``H + λI``, λ a share of the mean of H's diagonal, or of 1 where that is 0."""
    mean = matrices.diagonal(dim1=1, dim2=2).mean(1)
    added = share * torch.where(mean > 0, mean, 1.0)
    return matrices + torch.diag_embed(added[:, None].expand(-1, matrices.shape[1]))


def removal_losses(rows: Tensor, hessian: Tensor, *, block: int) -> Tensor:
    """What the squared error of the outputs grows by as weights go, least first.

    Args:
        rows: weights, ``(out, d)``, doubles.
        hessian: ``(groups, d, d)``, positive definite.
        block: inputs that are pruned together; all d of them is exact.

    Returns:
        The loss of each weight's removal, ``(out, d)``; never less than that of one that goes
        before it in its row, so that the smallest of a layer are those to remove.
    """
    out, width = rows.shape
    group = torch.arange(out, device=rows.device) // (out // len(hessian))
    losses = torch.empty_like(rows)
    for columns in torch.split(torch.arange(width, device=rows.device), block):
        part = hessian[:, columns[:, None], columns]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(part))
        several = max(1, BYTES // (8 * len(columns) ** 2))
        for own in torch.split(torch.arange(out, device=rows.device), several):
            place = (own[:, None], columns)
            losses[place] = _removed_in_turn(rows[place], inverse[group[own]])
    return losses


def _removed_in_turn(rows: Tensor, inverse: Tensor) -> Tensor:
    """As `removal_losses`, with an H⁻¹ of its own for each row.

    H⁻¹ loses the outer product of a vector with each removal. They are subtracted together after
    some removals, in one matrix product over what is left, which is many times as fast.
    """
    losses, every = torch.empty_like(rows), torch.arange(len(rows), device=rows.device)
    columns = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    largest = torch.zeros_like(rows[:, 0])
    while columns.shape[1]:
        vectors = rows.new_zeros(len(rows), min(STEPS, columns.shape[1]), columns.shape[1])
        diagonal, left = inverse.diagonal(dim1=1, dim2=2).clone(), torch.ones_like(rows) > 0
        for number in range(vectors.shape[1]):
            costs = rows**2 / (2 * diagonal)
            cost, first = costs.masked_fill(~left, math.inf).min(1)
            largest = torch.maximum(cost, largest * (1 + 1e-12))  # in order, without ties
            losses[every, columns[every, first]] = largest
            before = vectors[:, :number]
            subtracted = before[every, :, first][:, None] @ before
            column = inverse[every, first] - subtracted[:, 0]
            pivot = diagonal[every, first]
            rows = rows - column * (rows[every, first] / pivot)[:, None]
            vectors[:, number] = column / pivot.sqrt()[:, None]
            diagonal -= vectors[:, number] ** 2
            left[every, first] = False
        stay = left.nonzero()[:, 1].view(len(rows), -1)
        rows, columns = rows.gather(1, stay), columns.gather(1, stay)
        vectors = vectors[every[:, None], :, stay]
        inverse = inverse[every[:, None, None], stay[:, :, None], stay[:, None]]
        inverse.baddbmm_(vectors, vectors.transpose(1, 2), alpha=-1)
    return losses


def refit(rows: Tensor, hessian: Tensor, mask: Tensor) -> Tensor:
    """The rows v within the mask with the least ``(v − w)ᵀH(v − w)``.

    Args:
        rows: weights w, ``(out, d)``.
        hessian: ``(groups, d, d)``.
        mask: of the weights to keep, ``(out, d)``.
    """
    targets, fitted = products(rows, hessian), torch.zeros_like(rows)
    each = len(rows) // len(hessian)
    for number, target in enumerate(targets):
        kept = mask[number].nonzero()[:, 0]
        factor = torch.linalg.cholesky(hessian[number // each][kept[:, None], kept])
        fitted[number, kept] = torch.cholesky_solve(target[kept, None], factor)[:, 0]
    return fitted
