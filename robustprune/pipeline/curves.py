"""The curves of one network: each epoch's metrics, in its folder and in the tracker."""

from __future__ import annotations

from typing import Any

from robustprune.files import write_json
from robustprune.pipeline.folder import RunFolder
from robustprune.pruners import Stage
from robustprune.tracking import NullTracker, Tracker, stage_metrics


class Curves:
    """Gathers the epochs of a network's stages.

    Args:
        folder: ``history.json`` is written there.
        tracker: told of each epoch once a process; it knows which ones an earlier one told it.
    """

    def __init__(self, folder: RunFolder, tracker: Tracker | NullTracker) -> None:
        self._folder, self._tracker = folder, tracker
        self._epochs: dict[str, list[dict[str, float]]] = {}

    def add(self, network: str, stage: Stage, history: list[dict[str, float]]) -> None:
        """Take in the epochs of a network's ``stage`` that are new in its ``history``.

        Raises:
            FullDiskError: nothing more can be written.
        """
        known = self._epochs.setdefault(stage.name, [])
        for metrics in history[len(known) :]:
            known.append(metrics)
            values = stage_metrics(stage.name, metrics)
            self._tracker.metrics(network, values, step=len(known))
        file, entries = self._folder.history(network), self._entries()
        self._folder.write(lambda: write_json(file, entries))
        title = f"{network} {stage.name}"
        self._folder.stop_if_full(f"state after epoch {len(history)} of {title}")

    def _entries(self) -> list[dict[str, Any]]:
        return [
            {"stage": stage, "epoch": number, "metrics": metrics}
            for stage, epochs in self._epochs.items()
            for number, metrics in enumerate(epochs, start=1)
        ]
