"""What optimizer steps a run takes, seen by the hook that every one of them passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from robustprune.pruners import Method

Act = Callable[[str, str], None]
"""Called with a network's name and a stage's."""


def network_of(method: Method) -> str:
    """The name of the network that a method is at work on."""
    pruner = method.pruner
    return "dense" if pruner is None else str(pruner.network(method.context.density))


def watched(act: Act, hook: str = "step") -> Callable[..., Any]:
    """A hook of every method, before which ``act`` is called."""
    original = getattr(Method, hook)

    def watch(self: Method, stage: Any, *arguments: Any) -> Any:
        act(network_of(self), stage.name)
        return original(self, stage, *arguments)

    return watch


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Optimizer steps taken from now on, by network and stage: ``hydra-0.1 prune``."""
    counts: Counter[str] = Counter()

    def count(network: str, stage: str) -> None:
        counts[f"{network} {stage}"] += 1

    monkeypatch.setattr(Method, "step", watched(count))
    return counts


def interrupting(number: int, stage: str = "") -> Callable[..., Any]:
    """`Method.step` that is interrupted instead of the ``number``-th step, of a stage if named."""
    left = [number]

    def interrupt(network: str, name: str) -> None:
        left[0] -= name == stage or not stage
        if not left[0]:
            raise KeyboardInterrupt

    return watched(interrupt)
