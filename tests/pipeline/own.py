"""Pruners as a user may write them: what they need, and how they begin, is different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor

from robustprune import pruners
from robustprune.masking import MaskedModel
from robustprune.pruners import Context, Method, Pruner, Stage
from robustprune.recipe import StageOptions

SEEN: dict[str, dict[str, Tensor]] = {}
"""The weights that each network began with, by its name."""


class Own(Pruner):
    """Keeps the largest weights of what it starts from, or another's mask; trains as finetuning."""

    needed: list[str] = ["dense"]
    """What it needs."""
    start: int = 0
    """Epochs that count as done."""
    names: list[str] = ["train"]
    """Stages."""

    def needs(self) -> tuple[str, ...]:
        return tuple(self.needed)

    def stages(self, density: float, recipe: Mapping[str, StageOptions]) -> list[Stage]:
        return [Stage(name, self.section("finetune", recipe), self.start) for name in self.names]

    def method(self, context: Context) -> Method:
        return OwnMethod(self, context)


class OwnMethod(Method):
    """Sets the mask in the first `begin`, and remembers how often it was called."""

    def __init__(self, pruner: Own, context: Context) -> None:
        super().__init__(pruner, context)
        self.begun = 0

    def begin(self, stage: Stage, masked: MaskedModel) -> None:
        self.begun += 1
        network = self.pruner.network(self.context.density)
        if stage.name == self.pruner.names[0]:
            SEEN[network] = {name: weight.clone() for name, weight in masked.weights.items()}
            masks = [need for need in self.pruner.needed if need.startswith("mask:")]
            if masks:
                masked.set(self.context.checkpoints[masks[0]])
            else:
                self.keep(masked, {name: w.detach().abs() for name, w in masked.weights.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self.begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begun = state["begun"]


@contextmanager
def registered() -> Iterator[None]:
    """Register `Own` as ``own``, and forget it afterwards."""
    pruners.names()
    SEEN.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruners.registry, "_parts", dict(pruners.registry._parts))
        vars(Own).get("registered_name") and delattr(Own, "registered_name")
        pruners.register("own")(Own)
        yield
