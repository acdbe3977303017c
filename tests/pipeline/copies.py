"""Stand-ins for sparse copies, and an evaluation that is interrupted."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune import kernels
from robustprune.evaluators import base
from robustprune.pipeline import sparse as copies
from robustprune.seeding import fork
from robustprune.training import loop, step


class Copy(nn.Module):
    """A stand-in for a sparse copy: what it answers follows from its choices."""

    def __init__(self, model: nn.Module, choices: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.choices = model, dict(choices)  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.roll(self.choices["number"], dims=1)  # type: ignore[arg-type]


class Trained(nn.Module):
    """A stand-in for the network that a stage trains through kernels: it itself."""

    def __init__(
        self, model: nn.Module, masked: Any, images: Tensor, *, choices: Any = None
    ) -> None:
        super().__init__()
        self.model, self.masked = model, masked
        self.choices: Any = dict(choices or {})

    def refresh(self) -> None:
        """Take over nothing: it is the network."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits


class Made:
    """Makes copies, and counts what it has measured."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.measured: list[int] = []
        """Images of the batches that choices were measured for."""

    def __call__(
        self, model: nn.Module, images: Tensor, *, threads: int, choices: Any, tell: Any
    ) -> Copy:
        assert threads == torch.get_num_threads()
        if choices is None:
            self.measured.append(len(images))
            choices = {"number": next(self.numbers)}
        return Copy(model, choices)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    maker = Made()
    monkeypatch.setattr(copies, "sparse", maker)
    for module in (loop, step):
        monkeypatch.setattr(module, "SparseTraining", Trained)
    monkeypatch.setattr(kernels, "available", lambda: None)
    return maker


class Stop:
    """Interrupts instead of a batch of an evaluator."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        metric: str,
        number: int,
        network: str = "magnitude-0.1",
    ) -> None:
        self.at: tuple[str, str, int] | None = (network, metric, number)

        def watched(seed: int, network: str, name: str, number: int) -> Any:
            if self.at == (network, name, number):
                self.at = None
                os.kill(os.getpid(), signal.SIGINT)
            return fork(seed, network, name, number)

        monkeypatch.setattr(base, "fork", watched)
