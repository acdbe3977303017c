"""The recipes that a study tries: spaces laid over one recipe, of which losses can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from robustprune.errors import UsageError
from robustprune.pipeline.checks import check_counts, check_maskable
from robustprune.pipeline.networks import Network, networks
from robustprune.pipeline.plan import Plan, plan
from robustprune.pipeline.spaces import Space
from robustprune.pruners import Stage
from robustprune.recipe import Recipe, load_recipe
from robustprune.tracking import Console

_QUIET = ("evaluate=[]", "measures=[]", "tracking.enabled=false")
_UNTRAINED = ("name", "evaluate", "measures", "tracking", "paper", "imports")


@dataclass
class Candidates:
    """Recipes that differ in the options that are tried, and are neither judged nor tracked.

    Attributes:
        path: the recipe's file.
        overrides: ``key=value`` changes of all of them.
        spaces: the options that are tried.
        max_steps: set if stages are cut.
        console: told of warnings.
    """

    path: Path
    overrides: tuple[str, ...]
    spaces: list[Space]
    max_steps: int | None
    console: Console

    @cached_property
    def plan(self) -> Plan:
        """The data, and the network where no option is tried."""
        return plan(load_recipe(self.path, [*self.overrides, *_QUIET]), warn=self.console.warn)

    @cached_property
    def own(self) -> dict[str, str]:
        """The recipe's own values, of the options whose spaces hold them."""
        found = {space.key: self._own(space) for space in self.spaces}
        return {key: value for key, value in found.items() if value is not None}

    def recipe(self, values: dict[str, str]) -> Recipe:
        """The recipe with these values.

        Raises:
            UsageError: they do not fit together.
        """
        tried = [f"{key}={value}" for key, value in values.items()]
        recipe = load_recipe(self.path, [*self.overrides, *tried, *_QUIET])
        check_maskable(recipe, self.plan.model)
        check_counts(recipe, self.plan.data, self.plan.model, max_steps=self.max_steps)
        Plan(recipe, self.plan.data, self.plan.model).kept()  # allocations have their limits
        return recipe

    def check(self) -> None:
        """Make sure that losses can be compared, and that the recipe takes values of every space.

        Raises:
            UsageError: they cannot, or it does not.
        """
        if self.plan.data.validation is None:
            raise UsageError(
                "data: trials are compared on a validation split, and this recipe has none. Hold "
                "training images back: --set data.validation=0.1."
            )
        for network in judged(self.plan.recipe):
            if not any(stage.options for stage in network.stages):
                raise UsageError(
                    f"{network.name} is trained in no stage, so it has no loss to compare. Give "
                    "the recipe one ('finetune', or 'pretrain' for the dense network), or leave it "
                    "out (--set prune.methods=[…])."
                )
        for space in self.spaces:
            self._check(space)

    def _check(self, space: Space) -> None:
        where, own = f"--over {space.key}={space.text}", self.plan.recipe
        changed = False
        for text in space.probes:
            try:
                recipe = self.recipe({space.key: text})
            except UsageError as error:
                raise UsageError(f"{where}: {text} does not fit.\n{error}") from None
            if _compared(recipe) != _compared(own):
                raise UsageError(
                    f"{where}: it changes the images, the seed, the densities or what is minimised "
                    "last: such losses cannot be compared. Tune another option, or look at runs: "
                    f"robustprune run RECIPE --sweep {space.key}=[…]."
                )
            changed |= _trained(recipe) != _trained(own)
        if not changed:
            raise UsageError(f"{where}: it changes nothing that is trained. Tune another option.")

    def _own(self, space: Space) -> str | None:
        own = _trained(self.plan.recipe)
        for choice in space.choices:
            if _trained(self.recipe({space.key: choice})) == own:
                return choice
        value = _at(own, space.key)
        return str(value) if space.holds(value) else None


def judged(recipe: Recipe) -> list[Network]:
    """The networks whose losses count: the pruned ones, or the dense one if there is no other."""
    found = networks(recipe)
    return [network for network in found if network.pruner is not None] or found


def final_objective(recipe: Recipe, stages: list[Stage]) -> dict[str, Any]:
    """The objective of the last of some stages that is trained, as plain values."""
    trained = [stage for stage in stages if stage.options is not None]
    return recipe.objective_of(trained[-1].options).model_dump(mode="json") if trained else {}


def _compared(recipe: Recipe) -> list[Any]:
    """All that must be the same for losses to be compared."""
    ends = [(one.density, final_objective(recipe, one.stages)) for one in judged(recipe)]
    return [recipe.seed, recipe.document()["data"], ends]


def _trained(recipe: Recipe) -> dict[str, Any]:
    """All that a recipe says of training."""
    return {key: value for key, value in recipe.document().items() if key not in _UNTRAINED}


def _at(document: Any, key: str) -> Any:
    """The value at a key of a document; None if there is none."""
    for part in key.split("."):
        try:
            document = document[int(part) if isinstance(document, list) else part]
        except (LookupError, TypeError, ValueError):
            return None
    return document
