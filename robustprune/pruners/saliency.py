"""Saliency: the connections that a network's loss, or its output, depends on most."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustprune.components import PartOf
from robustprune.errors import UsageError
from robustprune.masking import MaskedModel
from robustprune.masking.allocations import Allocation
from robustprune.objectives import Objective
from robustprune.pruners import register
from robustprune.pruners.base import SCORING, Context, Method, Pruner, Stage
from robustprune.pruners.magnitude import OneShot
from robustprune.recipe import StageChanges, StageOptions
from robustprune.train_mode import eval_mode, frozen_statistics
from robustprune.types import Images


def gradients_of(
    total: Tensor, weights: Iterable[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """A scalar's gradients; 0 by the weights of layers that are never called."""
    return torch.autograd.grad(
        total, list(weights), create_graph=create_graph, materialize_grads=True
    )


class SaliencyMethod(Method):
    """The mask of the largest `importance` is set in `begin`."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Score, and mask."""
        self.keep(masked, self.importance(stage, masked))

    def importance(self, stage: Stage, masked: MaskedModel) -> dict[str, Tensor]:
        """The scores of all weights, at least 0, by the weight's name."""
        raise TypeError(f"{type(self).__name__} must define importance(stage, masked)")

    def products(self, stage: Stage, masked: MaskedModel, batch: Images) -> dict[str, Tensor]:
        """g·w of each weight, g the gradient of a batch's loss with the network in eval mode."""
        weights = masked.weights
        for weight in weights.values():
            weight.requires_grad_(True)
        objective = self.objective(stage).fresh()
        with self.drawing(), eval_mode(masked.model), masked.cached():
            loss = objective(masked.model, *batch, SCORING)
            gradients = gradients_of(loss.total, weights.values())
        return {n: g * weights[n].detach() for n, g in zip(weights, gradients, strict=True)}


class BeforeTraining(Pruner):
    """The base of pruners that set the mask once, before training, and train what it leaves."""

    still = ("train",)
    cost = "1 training from scratch"

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "global"})]
    """One threshold for the network, as in the source. In the sources no layer has a floor, and
    whole layers can become empty at low densities; here each keeps an entry."""
    fresh: bool = False
    """Train another initialisation than the one that was scored."""
    train: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the training."""

    def needs(self) -> tuple[str, ...]:
        """The network before training, and another one to train if that is asked for."""
        return ("init", "fresh") if self.fresh else ("init",)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """One training, from scratch."""
        return [Stage("train", self.train.over(self.section("pretrain", recipe)))]


class BeforeTrainingMethod(SaliencyMethod):
    """The mask is set in `begin`, and the network to train taken."""

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """Score, mask, and take the network to train."""
        super().begin(stage, masked)
        if self.pruner.fresh:
            masked.load(self.context.checkpoints["fresh"])


@register("snip")
class Snip(BeforeTraining):
    """Keep the largest |g·w|, g the loss's gradient before training.

    The loss is the recipe's objective at its full radius, attack included, so that connections
    count by what the robust loss loses with them. In the source the scored network and the one
    that is trained are two initialisations, and biases are pruned too; here neither they nor norms
    are.
    """

    source = "Lee et al. 2019, SNIP, arXiv 1810.02340"

    batch_size: int = Field(128, ge=1)
    """Images that the gradient is taken on, in one batch."""
    fresh: bool = True
    """Train another initialisation than the one that was scored, as the source does."""

    def method(self, context: Context) -> Method:
        """A fresh method, which scores and masks."""
        return SnipMethod(self, context)


class SnipMethod(BeforeTrainingMethod):
    """Scores by one batch."""

    def importance(self, stage: Stage, masked: MaskedModel) -> dict[str, Tensor]:
        """|g·w|."""
        batch = next(self.context.batches(self.pruner.batch_size))
        return {n: product.abs() for n, product in self.products(stage, masked, batch).items()}


@register("grasp")
class Grasp(BeforeTraining):
    """Remove the weights without which the gradient stays largest: the largest −w·(Hg).

    g and H are gradient and Hessian of the objective's loss by the prunable weights, at its full
    radius: of the whole loss, the divergence of TRADES too. Images are attacked once, and the
    attacked ones stand still: g and Hg come from one forward pass, differentiated twice. The
    network that the loss sees gives its logits divided by T, after the attack, which is on the
    network itself. It is in train mode, as in the source: an untrained network's running statistics
    say nothing of its images; they are left alone.

    The reference takes the images in two halves, to save memory: (H₁ + H₂)(g₁ + g₂), which is the
    same but for a factor, and for BatchNorm, which normalises each half by itself; here they are
    one batch. It draws linear layers anew for scoring, and trains those that it has not scored;
    here the network that is scored is trained, or another one if ``fresh``.
    """

    source = "Wang, Zhang, Grosse 2020, GraSP, arXiv 2002.07376"

    per_class: int = Field(10, ge=1)
    """Images of each class that the loss is taken on. The reference's configurations for CIFAR
    take 10, its function's default is 25."""
    temperature: float = Field(200.0, gt=0)
    """T: divides the logits; the source's is 200."""

    def problems(self, stage: Stage, objective: Objective) -> Iterator[str]:
        """Losses that cannot be had apart from their attack, or differentiated twice."""
        yield from super().problems(stage, objective)
        name = f"objective '{objective.registered_name}'"
        if not objective.attacks_apart:
            yield (
                f"it divides logits in the loss alone, and {name} defines __call__ alone: define "
                "attack() and loss() instead"
            )
        if not objective.twice:
            yield f"it differentiates the loss twice, which {name} cannot be: use pgd or trades"

    def method(self, context: Context) -> Method:
        """A fresh method, which scores and masks."""
        return GraspMethod(self, context)


class GraspMethod(BeforeTrainingMethod):
    """Scores by the Hessian's product with the gradient."""

    def importance(self, stage: Stage, masked: MaskedModel) -> dict[str, Tensor]:
        """w·(Hg), moved up so that the least entry is at 0."""
        structure, weights = masked.structure, masked.weights
        signed = {
            name: structure.reduce(product.double() * weights[name].detach())
            for name, product in self.hessian_products(stage, masked).items()
        }
        least = min(float(entries.min()) for entries in signed.values())
        sizes = {name: structure.reduce(torch.ones_like(w)) for name, w in weights.items()}
        # the sums over entries are then the differences from the least
        return {n: structure.expand((e - least) / sizes[n], weights[n]) for n, e in signed.items()}

    def hessian_products(self, stage: Stage, masked: MaskedModel) -> dict[str, Tensor]:
        """Hg of each weight, of the loss with divided logits."""
        images, labels = self.batch()
        weights = [weight.requires_grad_(True) for weight in masked.weights.values()]
        objective, model = self.objective(stage).fresh(), masked.model
        tempered = Tempered(model, self.pruner.temperature)
        self.train_mode(stage, masked)
        # fused attention cannot be differentiated twice
        twice = sdpa_kernel(SDPBackend.MATH)
        with self.drawing(), frozen_statistics(model), twice, masked.cached():
            attacked = objective.attack(model, images, labels, SCORING)
            loss = objective.loss(tempered, images, attacked, labels, SCORING)
            gradients = gradients_of(loss.total, weights, create_graph=True)
            square = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
            products = gradients_of(square, weights)
        return dict(zip(masked.weights, products, strict=True))

    def batch(self) -> Images:
        """As many images of each class as asked."""
        count = self.pruner.per_class
        for batch in self.context.batches(256, per_class=count):
            return batch
        raise UsageError(
            f"pruner '{self.pruner.variant}': some class has fewer than {count} training images. "
            "Use a smaller per_class, or more images."
        )


class Tempered(nn.Module):
    """A network whose logits are divided."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, images: Tensor) -> Tensor:
        """Its logits, ``(n, classes)``, divided by the temperature."""
        logits: Tensor = self.model(images) / self.temperature
        return logits


@register("synflow")
class Synflow(BeforeTraining):
    """Keep the largest |dR/dw·w|, R the sum of the outputs for an image of ones, round by round.

    All parameters and buffers count with their absolute values, in eval mode: R is the sum over all
    paths of the products of |w| along them, and no layer is emptied before the others. Each round r
    of R prunes to density^(r/R) by the network that the round before has left. There is no loss in
    it: it is the control for scores that see attacks.

    The reference multiplies in float32, which overflows in deep networks, and takes signs back by
    a product with their own, which turns −0 into 0 and where two layers share a weight into
    something else; here the products are float64 on a copy, and no weight is touched. The image of
    ones is what the network is given: one that normalises images itself sees (1 − mean)/std, the
    same in a whole channel. Norm layers that centre, such as LayerNorm, break what the method rests
    on, that each layer's scores have the same sum.
    """

    source = "Tanaka et al. 2020, SynFlow, arXiv 2006.05467"

    rounds: int = Field(100, ge=1)
    """R: rounds of scoring and pruning; the source's is 100."""

    def problems(self, stage: Stage, objective: Objective) -> Iterator[str]:
        """A structure that has not the densities of the rounds."""
        yield from super().problems(stage, objective)
        if self.rounds > 1 and self.structure.registered_name == "n_m":
            yield "its rounds pass densities that structure 'n_m' has not: set rounds: 1"

    def method(self, context: Context) -> Method:
        """A fresh method, which scores and masks."""
        return SynflowMethod(self, context)


class SynflowMethod(BeforeTrainingMethod):
    """Prunes in rounds."""

    def importance(self, stage: Stage, masked: MaskedModel) -> dict[str, Tensor]:
        """The last round's scores, the rounds before being done."""
        rounds, density = self.pruner.rounds, self.context.density
        for number in range(1, rounds):
            self.keep(masked, self.flow(masked), density ** (number / rounds))
        return self.flow(masked)

    def flow(self, masked: MaskedModel) -> dict[str, Tensor]:
        """|dR/dw·w| of the weights that are left, in float64."""
        model = masked.model
        tensors = itertools.chain(model.named_parameters(), model.named_buffers())
        names = {id(tensor): name for name, tensor in model.named_parameters()}
        sizes = {n: t.detach().double().abs() for n, t in tensors if t.is_floating_point()}
        weights = {n: sizes[names[id(w)]].requires_grad_() for n, w in masked.weights.items()}
        ones = torch.ones_like(next(self.context.batches(1)).images[:1], dtype=torch.float64)
        with eval_mode(model):
            total = functional_call(model, sizes, (ones,)).sum()
            gradients = gradients_of(total, weights.values())
        pairs = zip(weights.items(), gradients, strict=True)
        return self.left(masked, {n: (g * weight.detach()).abs() for (n, weight), g in pairs})


@register("taylor")
class Taylor(OneShot):
    """Keep the largest |g·w| of the trained network: what the loss would change, to first order.

    The mean of |g·w| over batches of images, attacked as the objective does, in eval mode. With
    structures the entries sum their weights': the source's sum of single importances, not the
    square of the joint one. Source: of 2017 on activations, of 2019 on weights, there squared,
    pruned little by little while finetuning; here at once, as magnitude pruning.
    """

    source = "Molchanov et al. 2017, 2019, Importance estimation, arXiv 1611.06440, 1906.10771"

    allocation: Annotated[Allocation, PartOf("allocations", {"name": "global"})]
    """One threshold for the network, as in the source."""
    batches: int = Field(10, ge=1)
    """Batches that the gradients are taken on, one after the other, or as many as there are."""
    batch_size: int = Field(128, ge=1)
    """Images of a batch."""
    squared: bool = False
    """Square g·w of each batch, as the source of 2019, which weighs batches of large gradients
    more."""

    def method(self, context: Context) -> Method:
        """A fresh method, which scores and masks."""
        return TaylorMethod(self, context)


class TaylorMethod(SaliencyMethod):
    """Scores by several batches."""

    def importance(self, stage: Stage, masked: MaskedModel) -> dict[str, Tensor]:
        """The mean of |g·w|, or of its square."""
        exponent = 2 if self.pruner.squared else 1
        total = {name: torch.zeros_like(weight) for name, weight in masked.weights.items()}
        batches = self.context.batches(self.pruner.batch_size)
        for count, batch in enumerate(itertools.islice(batches, self.pruner.batches), start=1):
            for name, product in self.products(stage, masked, batch).items():
                total[name] += (product.abs() ** exponent - total[name]) / count
        return {name: score.detach() for name, score in total.items()}
