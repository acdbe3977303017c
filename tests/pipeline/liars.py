"""Certificates that can be caught lying, for as long as a test lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from robustprune import evaluators
from robustprune.evaluators import Evaluator
from robustprune.types import Norm, Threat

if TYPE_CHECKING:
    from torch import Tensor, nn


class Gullible(Evaluator):
    """Verifies whatever is classified rightly."""

    norm: Norm = "linf"
    eps: float = 0.1

    @property
    def claims(self) -> Threat:
        return Threat(self.norm, self.eps)

    def judge(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int
    ) -> dict[str, Tensor]:
        return {self.metric: model(images).argmax(1) == labels}


class Careful(Gullible):
    """Verifies nothing, which is sound."""

    def judge(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int
    ) -> dict[str, Tensor]:
        return {self.metric: labels < 0}


class Verified(Gullible):
    """A stand-in for the cascade of bounds, with its options."""

    bounds: list[str] = ["ibp"]
    seconds: float | None = None
    memory: float = 1.0


@contextmanager
def registered(**parts: type[Evaluator]) -> Iterator[None]:
    """Register evaluators, in place of ours of the same name."""
    names = set(evaluators.names())
    with pytest.MonkeyPatch.context() as patch:
        rest: dict[str, Any] = {
            name: part
            for name, part in evaluators.registry._parts.items()
            if name in names - parts.keys()
        }
        patch.setattr(evaluators.registry, "_parts", rest)
        for name, part in parts.items():
            evaluators.register(name)(type(part.__name__, (part,), {"__doc__": part.__doc__}))
        yield
