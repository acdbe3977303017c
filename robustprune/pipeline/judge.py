"""One evaluator's verdict on one network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from robustprune.errors import UsageError
from robustprune.evaluators.accuracy import summarise

if TYPE_CHECKING:
    from torch import nn

    from robustprune.datasets.source import Source
    from robustprune.evaluators import Evaluator
    from robustprune.tracking import Console


def judge(
    evaluator: Evaluator,
    model: nn.Module,
    test: Source | None,
    *,
    network: str,
    seed: int,
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    """The evaluator's metrics on the first images of the test set.

    Args:
        evaluator: says how many images.
        model: baked, on the device.
        test: the test images.
        network: the network's name, it seeds the draws.
        seed: the recipe's.
        device: the network's device.
        console: shows a bar.
    """
    if test is None:
        raise UsageError("the dataset has no test images to evaluate on.")
    n = min(evaluator.samples or len(test), len(test))
    batches = (
        (images.to(device), labels.to(device))
        for images, labels in test.ordered(evaluator.batch_size, limit=n)
    )
    verdicts = []
    with console.progress(f"{network} {evaluator.metric}", n, unit="image") as bar:
        for verdict in evaluator.evaluate(model, batches, seed=seed, network=network):
            verdicts.append(verdict)
            values = torch.cat([v[evaluator.metric] for v in verdicts])
            kind = "accuracy" if values.dtype == torch.bool else "mean"
            bar.advance(len(verdict[evaluator.metric]), **{kind: float(values.double().mean())})
    return summarise(verdicts)
