"""The curves of one network: each epoch's metrics, in its folder and in the tracker."""

from __future__ import annotations

from typing import Any

from robustprune.files import write_json
from robustprune.pipeline.folder import RunFolder
from robustprune.tracking import NullTracker, Tracker, phase_metrics
from robustprune.training.phase import Phase


class Curves:
    """Gathers the epochs of a network's phases.

    Args:
        folder: ``history.json`` is written there.
        tracker: told of each epoch once a process; it knows which ones an earlier one told it.
    """

    def __init__(self, folder: RunFolder, tracker: Tracker | NullTracker) -> None:
        self._folder, self._tracker = folder, tracker
        self._epochs: dict[str, list[dict[str, float]]] = {}

    def add(self, phase: Phase, history: list[dict[str, float]]) -> None:
        """Take in the epochs of ``phase`` that are new in its ``history``.

        Raises:
            FullDiskError: nothing more can be written.
        """
        known = self._epochs.setdefault(phase.name, [])
        for metrics in history[len(known) :]:
            known.append(metrics)
            values = phase_metrics(phase.name, metrics)
            self._tracker.metrics(phase.network, values, step=len(known))
        file, entries = self._folder.history(phase.network), self._entries()
        self._folder.write(lambda: write_json(file, entries))
        title = f"{phase.network} {phase.name}"
        self._folder.stop_if_full(f"state after epoch {len(history)} of {title}")

    def _entries(self) -> list[dict[str, Any]]:
        return [
            {"phase": phase, "epoch": number, "metrics": metrics}
            for phase, epochs in self._epochs.items()
            for number, metrics in enumerate(epochs, start=1)
        ]
