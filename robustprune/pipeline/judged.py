"""The judgement of a network that the caller holds, as a mapping of numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from robustprune.artifacts.saved import SavedModel
from robustprune.datasets.source import Source
from robustprune.evaluators import Evaluator
from robustprune.evaluators.accuracy import measured
from robustprune.masking.table import as_text
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.evaluate import Evaluation, evaluate
from robustprune.pipeline.evaluation_state import Subject
from robustprune.pipeline.own import check_fits, compute_options
from robustprune.pipeline.results import metric_text
from robustprune.tracking import Console


class Evaluated(dict[str, Any]):
    """Numbers by name, as ``results.json`` has them: ``pgd``, ``pgd_interval``, ``pgd_n``, ….

    Attributes:
        images: the results of each image, by name, in the images' order; ``label`` beside them.
        alarms: certificates that an attack refuted, which is a fault of ours.
    """

    def __init__(self, found: Evaluation) -> None:
        super().__init__(found.metrics)
        entries = [found.images.entries(name) for name in sorted(found.images.evaluators)]
        self.images = {n: values for one in entries for n, values in one.items()}
        self.images["label"] = found.images.labels
        self.alarms = found.alarms

    def __repr__(self) -> str:
        """A table of the accuracies and other numbers, with their intervals."""
        names = measured([self])
        rows = [
            [f"{name} %" if fraction else name, metric_text(self, name), str(self[f"{name}_n"])]
            for name, fraction in names.items()
        ]
        return as_text(["metric", "value ± half of a 95 % interval", "images"], rows)


def judge(
    saved: SavedModel,
    images: Source,
    evaluators: Sequence[Evaluator],
    device: str | None,
    quiet: bool,
    *,
    sparse: str = "auto",
) -> Evaluated:
    """Let evaluators judge a network, which stays as it is.

    Args:
        saved: takes images in [0, 1]; its metadata has its name and the seed.
        images: to judge by.
        evaluators: what to judge it by.
        device: see `rp.prune`.
        quiet: show no progress.
        sparse: the use of sparse kernels.

    Raises:
        UsageError: the images do not fit the network.
    """
    check_fits(saved.model, images, name="data")
    options = compute_options(saved.model, device=device, sparse=sparse)
    name, seed = saved.metadata.get("network", ""), int(saved.metadata.get("seed", 0))
    with Compute(options) as compute:
        elsewhere = any(p.device.type != compute.device.type for p in saved.model.parameters())
        network = copy.deepcopy(saved.model).to(compute.device) if elsewhere else saved.model
        found = evaluate(
            Subject(network, images, network=name, seed=seed),
            evaluators,
            device=compute.device,
            console=Console(quiet=quiet),
            shard=compute.shard,
            sparse=sparse,
        )
    return Evaluated(found)
