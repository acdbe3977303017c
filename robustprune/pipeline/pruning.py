"""Pruning a network that the caller holds: a run without a recipe's file, a folder or MLflow.

The options become a recipe in memory, so that its checks, the methods and the loop are those of
every run, and the result is the same to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from robustprune.artifacts.saved import differences, listed
from robustprune.components import build
from robustprune.datasets import Splits
from robustprune.errors import DivergedError, InvalidError, Place, Problem, UsageError
from robustprune.masking import LayerReport
from robustprune.masking.table import as_text, layer_table
from robustprune.models import ModelOptions
from robustprune.pipeline.checkpoints import check_needs, reset, tensors_by_name
from robustprune.pipeline.checks import check_maskable
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.networks import MASK, Network
from robustprune.pipeline.own import INSIDE
from robustprune.pipeline.run_folder import RunFolder
from robustprune.pipeline.train import NetworkTrainer
from robustprune.pruners import Stage
from robustprune.recipe import Recipe, inconsistencies
from robustprune.seeding import fork
from robustprune.tracking import Console, Tracker, TrackingOptions
from robustprune.training.loop import History

_WORDS = {"data.validation": "validation", "--set finetune.epochs=": "finetune="}


@dataclass(frozen=True, repr=False)
class Pruned:
    """A pruned network, and how it came about.

    Attributes:
        model: plain and baked, pruned weights 0; of the class, on the device, in the modes and
            with the tensors' names of the network that was given.
        masks: boolean, by the weight's name.
        turnover: share of the kept positions that the first masks did not keep: what was learned.
        history: a mapping ``stage``, ``epoch``, ``metrics`` for each epoch.
        about: pruner, density, objective, seed and more, for files that are made of it.
        metrics: what the evaluators found, if any were named.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    turnover: float
    history: list[dict[str, Any]]
    about: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> list[LayerReport]:
        """Weights kept of each masked layer."""
        return [
            LayerReport(name.removesuffix("weight").removesuffix("."), tuple(m.shape), kept, total)
            for name, m in self.masks.items()
            for kept, total in [(int(m.sum()), m.numel())]
        ]

    @property
    def kept(self) -> int:
        """Number of maskable weights that are kept."""
        return sum(layer.kept for layer in self.layers)

    @property
    def prunable(self) -> int:
        """Number of maskable weights."""
        return sum(layer.total for layer in self.layers)

    def __repr__(self) -> str:
        """A table of the layers, and the last epoch of each stage."""
        name, share = self.about["network"], f"{self.kept:,} of {self.prunable:,}"
        lines = [f"{name}: {share} weights kept, turnover {self.turnover:.1%}"]
        lines.append(as_text(*layer_table(self.layers), words=2))
        for stage, entry in {entry["stage"]: entry for entry in self.history}.items():
            metrics = ", ".join(f"{key} {value:.4g}" for key, value in entry["metrics"].items())
            lines.append(f"{stage}, epoch {entry['epoch']}: {metrics}")
        return "\n".join([*lines, *([repr(self.metrics)] if self.metrics else [])])


def recipe_of(sections: Mapping[str, Any], *, model: nn.Module, wrapped: bool) -> Recipe:
    """A recipe of sections as its file would hold them, for a network that no name stands for.

    Args:
        sections: all but the name and the model.
        model: the network.
        wrapped: it stands behind a normalisation, under `INSIDE`.

    Raises:
        UsageError: names every wrong option by the argument of `rp.prune` that it came in by.
    """
    kind = ModelOptions.model_construct(name=type(model).__name__)
    try:
        recipe = build(Recipe, {"name": "python", "model": kind, "measures": [], **sections})
    except InvalidError as error:
        raise _by_argument(error.problems) from None
    if wrapped and recipe.prune is not None:
        pruner: Any = recipe.prune.methods[0]
        inner = [f"{INSIDE}{pattern}" for pattern in pruner.exclude]
        recipe.prune.methods[0] = pruner.model_copy(update={"exclude": inner})
    return recipe


def optimizer_of(optimizer: Any, lr: float | None) -> dict[str, Any]:
    """The option ``optimizer`` of a stage; none where nothing is said.

    Raises:
        UsageError: a learning rate beside a part that has one.
    """
    if lr is None:
        return {} if optimizer is None else {"optimizer": optimizer}
    if optimizer is not None and not isinstance(optimizer, str | Mapping):
        raise UsageError(f"lr: {lr:g}, and the optimizer has lr {optimizer.lr:g}. Say one of them.")
    named = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer or {})
    return {"optimizer": {**named, "lr": lr}}


def finetuning(given: Any, *, epochs: int, batch_size: int) -> dict[str, Any] | None:
    """The section ``finetune``, or None; see `rp.prune`."""
    options = dict(given) if isinstance(given, Mapping) else {"epochs": given}
    if options.get("epochs") is None:
        options["epochs"] = epochs
    usual = {"batch_size": batch_size, "optimizer": {"lr": 0.01}}
    return None if options["epochs"] == 0 else usual | options


def _by_argument(problems: Collection[Problem]) -> InvalidError:
    """A recipe's problems, each placed at the argument that it came in by."""
    found: dict[Problem, None] = {}
    for place, message in ((problem.place, problem.message) for problem in problems):
        where: Place = place
        if place[:2] == ("prune", "methods"):
            where = ("method", *place[3:])
        elif place[:2] == ("prune", "densities"):
            where = ("density",)
        elif place[:1] in (("prune",), ("pretrain",)):
            where = place[1:]
        for word, ours in _WORDS.items():
            message = message.replace(word, ours)
        found[Problem(where, message)] = None
    return InvalidError(found)


@dataclass
class _Pruning(NetworkTrainer):
    """Prunes one network, and keeps in memory what a run would write.

    Attributes:
        given: what pruners may need beside the network, by need.
    """

    given: Mapping[str, Mapping[str, Tensor]]

    def add_epochs(self, network: str, stage: Stage, history: History) -> None:
        """Keep a stage's curves."""
        self._curves[stage.name] = {"": list(history)}

    def write(self, network: Network, model: nn.Module, **found: Any) -> None:
        """Keep a network, its masks and their turnover."""
        history = [
            {"stage": stage, "epoch": number, "metrics": metrics}
            for stage, epochs in self._curves.items()
            for number, metrics in enumerate(epochs[""], start=1)
        ]
        self.found = Pruned(model, dict(found["masks"]), found["turnover"], history, {})

    def _fresh(self, network: Network) -> nn.Module:
        """A network of the architecture, whose weights are about to be overwritten."""
        return copy.deepcopy(self.untrained)

    def _checkpoint(self, need: str, network: Network) -> Mapping[str, Tensor]:
        """Tensors that a pruner needs: the network's own, or what was given."""
        if need == "fresh" and need not in self.given:
            with fork(self.recipe.seed, network.name, "init"):
                return reset(self.untrained).state_dict()
        own = self.untrained.state_dict()
        found = self.given.get(need, own)
        if not need.startswith(MASK) and (problems := differences(own, found)):
            raise UsageError(f"checkpoints: '{need}' is of another network: {listed(problems)}.")
        return found


def prune_given(
    model: nn.Module,
    recipe: Recipe,
    data: Splits,
    *,
    checkpoints: Mapping[str, Any],
    console: Console,
    max_steps: int | None,
) -> Pruned:
    """Take a copy of a network through its one pruner's stages.

    Args:
        model: takes images in [0, 1]; it stays as it is.
        recipe: of `recipe_of`, with one pruner and one density.
        data: the images to learn from, and others to validate on or none.
        checkpoints: what the pruner needs beside, by need.
        console: shows progress.
        max_steps: cuts each stage, to try it out.

    Raises:
        UsageError: something does not fit; told before any training.
        DivergedError: a loss is NaN, infinite or exploding.
    """
    assert recipe.prune is not None
    pruner: Any = recipe.prune.methods[0]
    density, needs = recipe.prune.densities[0], pruner.needs()
    given = {need: tensors_by_name(value) for need, value in checkpoints.items()}
    check_needs(needs, given, called=f"'{pruner.variant}'")
    problems = inconsistencies(recipe, given=needs)
    if found := [problem for problem in problems if problem.place[:1] != ("pretrain",)]:
        raise _by_argument(found)
    check_maskable(recipe, model)
    stages = pruner.stages(density, recipe.stages)
    network = Network(pruner.network(density), pruner, density, stages)
    with Compute(recipe.compute) as compute, TemporaryDirectory(prefix="robustprune-") as folder:
        if compute.shard.world > 1:
            raise UsageError("prune: it trains in one process. Use a recipe for several.")
        place = Path(folder)
        off = TrackingOptions(enabled=False)
        parts: dict[str, Any] = {
            "recipe": recipe,
            "data": data,
            "initial": model,
            "folder": RunFolder(place),
            "tracker": Tracker(off, folder=place, runs=place, warn=console.warn),
            "console": console,
            "compute": compute,
            "max_steps": max_steps,
            "watch": lambda *_: None,
        }
        work = _Pruning(**parts, given=given)
        try:
            work.train_pruned(network)
        except DivergedError as error:
            what = str(error).partition(";")[0]
            remedy = "Try a lower lr, schedule='warmup' or precision='fp32'"
            raise DivergedError(f"{what}. {remedy}; the network given is as it was.") from None
    about = {
        "network": network.name,
        "pruner": pruner.model_dump(mode="json"),
        "density": density,
        "turnover": work.found.turnover,
        "seed": recipe.seed,
        "objective": recipe.objective_of(stages[-1].options).model_dump(mode="json"),
        "evaluate": [evaluator.model_dump(mode="json") for evaluator in recipe.evaluate],
        **work.cut,
    }
    return replace(work.found, about=about)


def as_given(found: Pruned, model: nn.Module, *, wrapped: bool) -> Pruned:
    """A pruned network on the device, in the modes and with the gradients of `model`.

    Args:
        found: of a copy of ``model``.
        model: the network that was given.
        wrapped: the copy stood behind a normalisation, which is taken off.
    """
    plain: Any = found.model.backbone if wrapped else found.model
    device = next(iter(model.parameters())).device
    plain.to(device)
    for mine, its in zip(plain.modules(), model.modules(), strict=True):
        mine.training = its.training
        mine._parameters = {n: mine._parameters[n] for n in its._parameters}  # as they stood
    plain.requires_grad_(True)
    prefix = INSIDE if wrapped else ""
    masks = {name.removeprefix(prefix): mask.to(device) for name, mask in found.masks.items()}
    return replace(found, model=plain, masks=masks)
