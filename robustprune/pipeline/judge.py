"""One evaluator's verdict on one network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from robustprune.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from robustprune.datasets.source import Source
    from robustprune.evaluators import Evaluator
    from robustprune.evaluators.base import PerImage
    from robustprune.tracking import Console


class Verdict(NamedTuple):
    """What one evaluator says of one network.

    Attributes:
        metrics: for ``results.json``.
        labels: ``(n,)``, int64, of the first n test images.
        images: what became of each of them: tensors of length n by name.
    """

    metrics: dict[str, Any]
    labels: Tensor
    images: PerImage


def judge(
    evaluator: Evaluator,
    model: nn.Module,
    test: Source | None,
    *,
    network: str,
    seed: int,
    device: torch.device,
    console: Console,
) -> Verdict:
    """Let an evaluator judge the first images of the test set.

    Args:
        evaluator: says how many images.
        model: baked, on the device.
        test: the test images.
        network: the network's name, it seeds the draws.
        seed: the recipe's.
        device: the network's device.
        console: shows a bar.

    Raises:
        UsageError: there are no test images.
        TypeError: the evaluator breaks its contract.
    """
    if test is None:
        raise UsageError("the dataset has no test images to evaluate on.")
    n = min(evaluator.samples or len(test), len(test))
    labels: list[Tensor] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in test.ordered(evaluator.batch_size, limit=n):
            labels.append(targets.cpu())
            yield images.to(device), targets.to(device)

    parts = []
    with console.progress(f"{network} {evaluator.metric}", n, unit="image") as bar:
        for part in evaluator.evaluate(model, batches(), seed=seed, network=network):
            _check(evaluator, part, n=len(labels[-1]))
            parts.append(part)
            values = torch.cat([part[evaluator.metric] for part in parts])
            kind = "accuracy" if values.dtype == torch.bool else "mean"
            bar.advance(len(labels[-1]), **{kind: float(values.double().mean())})
    images = _joined(parts)
    return Verdict(evaluator.summarise(images), torch.cat(labels), images)


def _joined(parts: Sequence[PerImage]) -> PerImage:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _check(evaluator: Evaluator, part: PerImage, *, n: int) -> None:
    """Hold the entries of one batch against the evaluator's contract."""
    shapes = {name: tuple(values.shape) for name, values in part.items()}
    if wrong := {name: shape for name, shape in shapes.items() if shape != (n,)}:
        raise TypeError(
            f"evaluator '{evaluator.metric}': judge must give one value an image, shape ({n},); "
            f"got {wrong}."
        )
    says = evaluator.claims or evaluator.refutes
    if says is not None and part[evaluator.metric].dtype != torch.bool:
        raise TypeError(
            f"evaluator '{evaluator.metric}' claims or refutes a ball, so its entry "
            f"'{evaluator.metric}' must be boolean; got {part[evaluator.metric].dtype}."
        )
