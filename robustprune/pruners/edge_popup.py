"""Nothing but the mask is learned: subnetworks of networks that were never trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from robustprune.masking import MaskedModel
from robustprune.masking.selection import ScoreInit
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage, norm_layers
from robustprune.pruners.hydra import HydraMethod
from robustprune.recipe import StageChanges, StageOptions


@register("edge_popup")
class EdgePopup(Pruner):
    """Find a subnetwork within an untrained network, whose weights never move.

    Scores are learned as HYDRA's are, by the objective's straight-through gradients; each layer
    keeps the largest |score|. Norm layers have no affine part: their weights are 1 and their
    biases 0, and only their running statistics move. The source's layers have no biases; here they
    stay as initialised, and so do layers without a mask, such as the output under ``filter``.

    The reference's option of scaled constants takes the share that is kept in one place and the
    share that is removed in another, and is right at a density of one half alone.
    """

    source = "Ramanujan et al. 2020, What's hidden in a randomly weighted network, arXiv 1911.13299"
    cost = "1 training of scores"

    weights: Literal["signed_constant", "plain"] = "signed_constant"
    """The weights: ``√(2 / fan_in)`` with the signs of the initialisation, the source's best; or
    the initialisation as it is."""
    scaled: bool = False
    """Divide weights that nothing has trained by √density, so that a layer gives what it would give
    with all of them. Norm layers do that by themselves; networks without any need it."""
    scores: ScoreInit = "kaiming"
    """Initial scores; the source's are kaiming."""
    search: StageChanges = StageChanges()
    """Changes to ``pretrain`` for the scores."""

    def needs(self) -> tuple[str, ...]:
        """The network before training."""
        return ("init",)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """The training of scores."""
        return [Stage("search", self.search.over(self.section("pretrain", recipe)))]

    def method(self, context: Context) -> Method:
        """A fresh method, which learns the scores."""
        return EdgePopupMethod(self, context)


@register("robust_scratch_ticket")
class RobustScratchTicket(EdgePopup):
    """The same search under the robust objective, and then the weights of what it has found.

    The source looks at three networks: the subnetwork as found, trained from the weights that it
    was found with, and trained from others. It searches as many epochs as it trains. Norm layers
    train with the weights, from 1 and 0. On CIFAR-10 its weights are signed constants, on ImageNet
    it takes Kaiming's.

    Its defence at inference, which draws one of several such subnetworks for each image, is left
    out: an attack that does not average over the draws sees gradients of other networks, and what
    is measured then is the attack.
    """

    still = ("finetune",)
    source = "Fu et al. 2021, Drawing robust scratch tickets, NeurIPS 2021"
    cost = "1 training of scores, 1 of weights"

    then: Literal["inherit", "reinit"] | None = "inherit"
    """Train the weights afterwards, from those that the search had, or from another initialisation
    of the whole network; or leave them."""
    finetune: StageChanges = StageChanges()
    """Changes to the section ``finetune``."""

    def needs(self) -> tuple[str, ...]:
        """The network before training, and another one if weights are to be initialised anew."""
        return ("init", "fresh") if self.then == "reinit" else ("init",)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """The training of scores, then of the weights that are left."""
        stages = super().stages(density, recipe)
        if self.then is not None and "finetune" in recipe:
            stages.append(Stage("finetune", self.finetune.over(recipe["finetune"])))
        return stages


class EdgePopupMethod(HydraMethod):
    """In ``search`` scores are trained, and nothing else."""

    pruner: EdgePopup  # type: ignore[assignment]
    learning = "search"

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """The weights that stay, and first scores; or the weights to be trained."""
        if stage.name == self.learning:
            self._freeze(masked)
        elif getattr(self.pruner, "then", None) == "reinit":
            masked.load(self.context.checkpoints["fresh"])
            self._scale(masked)
        super().begin(stage, masked)

    @torch.no_grad()
    def _freeze(self, masked: MaskedModel) -> None:
        for layer in norm_layers(masked.model):
            for name, value in (("weight", 1.0), ("bias", 0.0)):
                parameter = getattr(layer, name, None)
                if parameter is not None:
                    nn.init.constant_(parameter, value)
        if self.pruner.weights == "signed_constant":
            for weight in masked.weights.values():
                size = math.sqrt(2 / weight[0].numel())
                weight.copy_(torch.where(weight < 0, -size, size))
        self._scale(masked)

    @torch.no_grad()
    def _scale(self, masked: MaskedModel) -> None:
        if self.pruner.scaled:
            for weight in masked.weights.values():
                weight.div_(math.sqrt(self.context.density))

    def param_groups(self, stage: Stage, masked: MaskedModel) -> list[dict[str, Any]]:
        """Scores, and nothing beside them."""
        if stage.name != self.learning:
            return super().param_groups(stage, masked)
        return [{"params": list(masked.scores.values())}]

    def train_mode(self, stage: Stage, masked: MaskedModel) -> None:
        """Running statistics move."""
        masked.model.train()
