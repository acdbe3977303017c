"""Sparse copies of networks, for evaluators that only call the network they judge.

Which layers of a copy go through kernels follows from measurements of time, and the bits of what it
computes follow from that. So the choices are recorded before a copy is first used, and an
evaluation that is resumed goes on with the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune import kernels
from robustprune.evaluators import Evaluator
from robustprune.files import write_json
from robustprune.inference import sparse
from robustprune.masking import prunable_layers
from robustprune.pipeline.evaluation_state import Subject
from robustprune.seeding import fork
from robustprune.shard import Shard
from robustprune.tracking import Console

Choices = dict[str, Any]
Entry = dict[str, Any]
"""``{"batch": images at once, "evaluators": [metric, …], "choices": {…}}``; JSON values."""

DENSEST = 0.25
FEWEST = 100_000
LEAST = 10_000
"""``sparse: auto`` considers networks that keep at most this share of at least so many prunable
weights, where images make at least so many passes through them: in others the time that measuring
takes, seconds for a network that is new to the machine, would not come back."""


class SparseCopies:
    """Copies of one network through sparse kernels, one for each number of images at once.

    All processes make the same calls, and compute by the main one's choices.

    Args:
        subject: the network, dense, and the images.
        use: ``auto``, ``on`` or ``off``, as in recipes.
        device: the network's.
        console: is told why there are no kernels.
        shard: this process.
        record: the file of the choices; None: nowhere.

    Attributes:
        entries: what was chosen, and for whom.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        use: str,
        device: torch.device,
        console: Console,
        shard: Shard,
        record: Path | None,
    ) -> None:
        self.entries: list[Entry] = []
        self._subject, self._use, self._console = subject, use, console
        self._shard, self._record = shard, record
        self._copies: dict[int, nn.Module] = {}
        self._on_cpu = device.type == "cpu"

    def choose(self, evaluators: Sequence[Evaluator]) -> None:
        """Choose for these evaluators, which are about to judge, and record it; or read it.

        Those that kernels are not for, now, judge the network itself, whatever is recorded.
        """
        self.entries = self._shard.lead(partial(self._chosen, evaluators))

    @property
    def shown(self) -> list[Entry]:
        """The entries for readers; see `shortened`."""
        return [{**entry, "choices": shortened(entry["choices"])} for entry in self.entries]

    def choices(self, evaluator: Evaluator) -> Choices | None:
        """The choices of the copy that an evaluator judges; None if it is the network itself."""
        found = (e["choices"] for e in self.entries if evaluator.metric in e["evaluators"])
        return next(found, None)

    def subject(self, evaluator: Evaluator) -> Subject:
        """What an evaluator is to judge: the network, or a copy in its place."""
        choices, subject = self.choices(evaluator), self._subject
        if choices is None:
            return subject
        batch = self._batch(evaluator)
        if batch not in self._copies:
            self._copies[batch] = self._copy(batch, choices)
        return replace(subject, model=self._copies[batch])

    def _chosen(self, evaluators: Sequence[Evaluator]) -> list[Entry]:
        wanted = [evaluator for evaluator in evaluators if self._considers(evaluator)]
        known = self._read(wanted)
        others = {one.metric for one in evaluators} - {one.metric for one in wanted}
        entries = [
            {**entry, "evaluators": left}
            for entry in known
            if (left := [name for name in entry["evaluators"] if name not in others])
        ]
        for evaluator in wanted:
            if any(evaluator.metric in entry["evaluators"] for entry in entries):
                continue
            batch = self._batch(evaluator)
            entry = next((e for e in entries if e["batch"] == batch), None)
            if entry is None:
                self._copies[batch] = made = self._copy(batch)
                choices: Any = made.choices
                entry = {"batch": batch, "evaluators": [], "choices": choices}
                entries.append(entry)
            entry["evaluators"].append(evaluator.metric)
        if self._record is not None and entries != known:
            facts = {"subject": self._subject.digest, "entries": entries}
            write_json(self._record, facts)
        return entries

    def _read(self, wanted: Sequence[Evaluator]) -> list[Entry]:
        """What is recorded; nothing if it is of another network, or damaged."""
        if self._record is None or not self._record.exists():
            return []
        try:
            found = json.loads(self._record.read_text(encoding="utf-8"))
            entries: list[Entry] = found["entries"]
            same = found["subject"] == (self._subject.digest if wanted else found["subject"])
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return entries if same else []

    def _considers(self, evaluator: Evaluator) -> bool:
        if self._use == "off" or not (self._on_cpu and evaluator.calls_only and self._subject.test):
            return False
        if self._use == "auto" and evaluator.passes * self._images(evaluator) < LEAST:
            return False
        if not _suits(self._subject.model, strict=self._use == "auto"):
            return False
        if (reason := kernels.available()) is not None:
            _tell(self._console, reason)
        return reason is None

    def _copy(self, batch: int, choices: Mapping[str, Any] | None = None) -> nn.Module:
        subject, threads = self._subject, torch.get_num_threads()
        with fork(subject.seed, subject.network, "sparse"):
            return sparse(
                subject.model,
                self._examples(batch),
                threads=threads,
                choices=choices,
                tell=self._console.info,
            )

    def _examples(self, batch: int) -> Tensor:
        """The first images, again and again if there are too few."""
        assert self._subject.test is not None
        images, _ = next(iter(self._subject.test.ordered(batch, limit=batch)))
        return images[torch.arange(batch) % len(images)]

    def _batch(self, evaluator: Evaluator) -> int:
        return evaluator.shown(self._images(evaluator))

    def _images(self, evaluator: Evaluator) -> int:
        assert self._subject.test is not None
        return min(evaluator.samples or len(self._subject.test), len(self._subject.test))


def shortened(choices: Choices) -> Choices:
    """Choices for readers: the layers that kernels compute by name, without the figures of each.

    Those of a stage have ``attacks``, as those of a copy, and the names of layers already.
    """
    short = {key: shortened(one) if key == "attacks" else one for key, one in choices.items()}
    if isinstance(layers := choices.get("layers"), dict):
        short["layers"] = [name for name, layer in layers.items() if layer["sparse"]]
    return short


def _suits(model: nn.Module, *, strict: bool) -> bool:
    """True if kernels may pay for a network; if not ``strict``, if there is anything to skip."""
    floats = [tensor for tensor in model.buffers() if tensor.is_floating_point()]
    if any(tensor.dtype != torch.float32 for tensor in [*model.parameters(), *floats]):
        return False
    weights = [layer.weight for layer in prunable_layers(model).values()]
    total = sum(weight.numel() for weight in weights)
    kept = sum(int(weight.count_nonzero()) for weight in weights)
    return total >= FEWEST and kept <= DENSEST * total if strict else kept < total


@cache
def _tell(console: Console, reason: str) -> None:
    """Say it once for each job, which has a console of its own."""
    console.warn(f"pruned networks are evaluated without sparse kernels: {reason}")
