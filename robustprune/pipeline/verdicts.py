"""What evaluators have said of one network so far, kept for a resumed run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robustprune.files import write_json
from robustprune.pipeline.folder import RunFolder
from robustprune.pipeline.images import ImageTable
from robustprune.pipeline.progress import clear

if TYPE_CHECKING:
    from robustprune.evaluators import Evaluator
    from robustprune.pipeline.judge import Verdict
    from robustprune.shard import Shard


class Verdicts:
    """The verdicts on one network, in memory and in the run folder.

    An evaluator has spoken if both its metrics and its images are there. The images are written
    first, so that a process killed in between leaves nothing that counts.

    Args:
        folder: the run's.
        network: the network's name.
        evaluations: what ``state/evaluations.json`` holds, by network and metric; grows with what
            is added.
        shard: this process; the main one reads and writes.

    Attributes:
        images: what became of each image.
    """

    def __init__(
        self, folder: RunFolder, network: str, evaluations: dict[str, Any], *, shard: Shard
    ) -> None:
        self._folder, self._network, self._evaluations = folder, network, evaluations
        self._shard = shard
        self._done: dict[str, Any] = evaluations.setdefault(network, {})
        self.images = shard.lead(lambda: ImageTable.read(folder.images(network), self._done))

    def __contains__(self, evaluator: Evaluator) -> bool:
        return evaluator.metric in self._done and evaluator.metric in self.images.evaluators

    def add(self, evaluator: Evaluator, verdict: Verdict) -> None:
        """Take in a verdict, and write it; the batches that it is made of are not needed more."""
        self.images.add(evaluator.metric, verdict.labels, verdict.images)
        self._done[evaluator.metric] = verdict.metrics
        self._shard.lead(lambda: self._write(evaluator.metric))

    def metrics(self, evaluator: Evaluator) -> dict[str, Any]:
        """The evaluator's numbers for ``results.json``."""
        metrics: dict[str, Any] = self._done[evaluator.metric]
        return metrics

    def _write(self, metric: str) -> None:
        self._folder.write(lambda: self.images.write(self._folder.images(self._network)))
        self._folder.write(lambda: write_json(self._folder.evaluations, self._evaluations))
        clear(self._folder.judged(self._network, metric))
