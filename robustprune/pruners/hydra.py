"""HYDRA: learn what to keep by minimising the robust objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch.optim import Optimizer

from robustprune.masking import MaskedModel
from robustprune.masking.selection import ScoreInit, init_scores
from robustprune.pruners import register
from robustprune.pruners.base import Context, Method, Pruner, Stage, norm_layers
from robustprune.recipe import StageChanges, StageOptions
from robustprune.types import Progress


@register("hydra")
class Hydra(Pruner):
    """Scores learned by SGD on the robust objective, weights frozen.

    Scores are of weights under every structure; an entry's importance is the sum of its |score|.
    As d(sum)/d|s| = 1 for each, a step of SGD moves that sum by ``−lr · Σ g·w``: as it would move
    one score that the whole entry had.
    """

    still = ("finetune",)

    scores: ScoreInit = "scaled_magnitude"
    """Initial scores; the paper's are scaled_magnitude."""
    train_norms: bool = True
    """Train norm layers while scores are learned, as HYDRA's reference does; else they, and their
    running statistics, stay as they are."""
    norm_lr: float | None = Field(None, gt=0)
    """Learning rate of the norm layers, if they train; absent, the scores' own, as in HYDRA's
    reference. Scores may need a rate at which norm layers diverge."""
    prune: StageChanges = StageChanges()
    """Changes to the section ``prune`` for the scores."""
    finetune: StageChanges = StageChanges()
    """Changes to the section ``finetune``."""

    source = "Sehwag et al. 2020, HYDRA, arXiv 2002.10509"
    cost = "1 training of scores, 1 of weights"

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        """The scores, then the weights that are left."""
        stages = [Stage("prune", self.prune.over(self.section("prune", recipe)))]
        if "finetune" in recipe:
            stages.append(Stage("finetune", self.finetune.over(recipe["finetune"])))
        return stages

    def method(self, context: Context) -> Method:
        """A fresh method, which learns the scores."""
        return HydraMethod(self, context)


class HydraMethod(Method):
    """In ``prune`` scores are trained and masks follow them; in ``finetune`` masks stay.

    Attributes:
        learning: the stage in which scores are trained.
    """

    pruner: Hydra
    learning: ClassVar[str] = "prune"

    def prepare(self, stage: Stage, masked: MaskedModel) -> None:
        """Scores, while they are learned."""
        if stage.name == self.learning:
            masked.add_scores()
        else:
            masked.drop_scores()

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        """The scores that the weights give, and their mask."""
        if stage.name == self.learning:
            self.add_first_scores(masked)
            self.select(stage, masked)

    def add_first_scores(self, masked: MaskedModel) -> None:
        """Give the weights the scores that learning starts from."""
        kind, generator = self.pruner.scores, self.context.generator
        weights = masked.weights.items()
        masked.add_scores({n: init_scores(w, kind, generator) for n, w in weights})

    def param_groups(self, stage: Stage, masked: MaskedModel) -> list[dict[str, Any]]:
        """Scores, and norm layers beside them."""
        if stage.name != self.learning:
            return super().param_groups(stage, masked)
        groups: list[dict[str, Any]] = [{"params": list(masked.scores.values())}]
        norms = [p for layer in norm_layers(masked.model) for p in layer.parameters()]
        if norms and self.pruner.train_norms:
            rate = {} if self.pruner.norm_lr is None else {"lr": self.pruner.norm_lr}
            groups.append({"params": norms, **rate})
        return groups

    def train_mode(self, stage: Stage, masked: MaskedModel) -> None:
        """Norm layers that do not train keep their statistics too."""
        super().train_mode(stage, masked)
        if stage.name == self.learning and not self.pruner.train_norms:
            for layer in norm_layers(masked.model):
                layer.eval()

    def select(self, stage: Stage, masked: MaskedModel) -> None:
        """Keep the largest |score|."""
        if stage.name == self.learning:
            self.keep(masked, {n: score.detach().abs() for n, score in masked.scores.items()})

    def after_epoch(
        self,
        stage: Stage,
        masked: MaskedModel,
        optimizer: Optimizer,
        progress: Progress,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """The turnover, while it can change."""
        return {"turnover": masked.turnover} if stage.name == self.learning else {}
