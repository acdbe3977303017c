"""One evaluator's verdict on one network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from robustprune.errors import ContractError, UsageError
from robustprune.evaluators.omissions import Omissions, told
from robustprune.pipeline.progress import EvaluationProgress, JudgedBatch, Subject
from robustprune.pipeline.rounds import rounds
from robustprune.shard import Shard
from robustprune.tracking import Console
from robustprune.types import Batch

if TYPE_CHECKING:
    from robustprune.datasets.source import Source
    from robustprune.evaluators import Evaluator
    from robustprune.evaluators.base import PerImage

_ALONE = Shard()


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
    subject: Subject,
    *,
    device: torch.device,
    console: Console,
    shard: Shard = _ALONE,
    progress: Path | None = None,
    write: Callable[[Callable[[], None]], None] = lambda work: work(),
) -> Verdict:
    """Let an evaluator judge the first images of the test set.

    Several processes judge a batch each in every round; then the main one writes them. The verdict
    is the same for any number of processes, and for a job that was killed and resumed, which
    judges at most one batch a process again.

    Args:
        evaluator: says how many images.
        subject: the network and the test images.
        device: the network's device.
        console: the main process shows a bar.
        shard: this process's place among those of the job, all of which must call this.
        progress: a folder in which batches are kept, and those of an earlier process are found.
        write: does what keeps a batch, and may do it twice.

    Raises:
        UsageError: there are no test images.
        ContractError: the evaluator gives something else than it must.
        PeerError: another process has failed.
    """
    test = subject.test
    if not test:
        raise UsageError("the dataset has no test images to evaluate on.")
    n = min(evaluator.samples or len(test), len(test))
    kept = None if progress is None else EvaluationProgress(progress, subject, evaluator)
    done = {} if kept is None else shard.lead(kept.read)
    left = [number for number in range(-(-n // evaluator.batch_size)) if number not in done]
    own = _judged(evaluator, subject, test, left[shard.rank :: shard.world], n=n, device=device)
    shown = console if shard.is_main else Console(quiet=True)
    title, before = f"{subject.network} {evaluator.metric}", _images(done.values())
    with closing(own), shown.progress(title, n, unit="image", before=before) as bar:
        for batches in rounds(own, shard):
            done |= {batch.number: batch for batch in batches}
            if kept is not None:
                shard.lead(partial(write, partial(kept.add, batches)))
            bar.advance(_images(batches), **_mean(evaluator, done))
    return _verdict(evaluator, subject, [done[number] for number in sorted(done)], shard)


def _judged(
    evaluator: Evaluator,
    subject: Subject,
    test: Source,
    numbers: Sequence[int],
    *,
    n: int,
    device: torch.device,
) -> Generator[JudgedBatch]:
    """Judge the batches with these numbers, of those of the first ``n`` images."""
    labels: list[Tensor] = []

    def batches() -> Iterator[Batch]:
        read = test.ordered(evaluator.batch_size, limit=n, numbers=numbers)
        for number, (images, targets) in zip(numbers, read, strict=True):
            labels.append(targets.cpu())
            yield Batch(number, images.to(device), targets.to(device))

    parts = evaluator.evaluate(subject.model, batches(), seed=subject.seed, network=subject.network)
    for number, part in zip(numbers, parts, strict=True):
        _check(evaluator, part, n=len(labels[-1]))
        yield JudgedBatch(number, labels[-1], part, evaluator.omissions())


def _images(batches: Iterable[JudgedBatch]) -> int:
    return sum(len(batch.labels) for batch in batches)


def _mean(evaluator: Evaluator, done: Mapping[int, JudgedBatch]) -> dict[str, float]:
    """What the bar shows of the images so far."""
    values = torch.cat([batch.images[evaluator.metric] for batch in done.values()])
    kind = "accuracy" if values.dtype == torch.bool else "mean"
    return {kind: float(values.double().mean())}


def _verdict(
    evaluator: Evaluator, subject: Subject, batches: Sequence[JudgedBatch], shard: Shard
) -> Verdict:
    """From all batches, in order, to the verdict; the main process warns of what was left out."""
    omissions: Omissions = sum((batch.omissions for batch in batches), Omissions())
    if omissions and shard.is_main:
        warnings.warn(
            f"evaluator '{evaluator.metric}' left bounds out on network '{subject.network}', so "
            f"that images may be undecided that it could verify: {told(omissions)}.",
            stacklevel=3,
        )
    names = batches[0].images
    images = {name: torch.cat([batch.images[name] for batch in batches]) for name in names}
    labels = torch.cat([batch.labels for batch in batches])
    return Verdict(evaluator.summarise(images), labels, images)


def _check(evaluator: Evaluator, part: PerImage, *, n: int) -> None:
    """Hold the entries of one batch against the evaluator's contract."""
    if not isinstance(part, Mapping) or not all(isinstance(v, Tensor) for v in part.values()):
        _breaks(evaluator, f"judge must give tensors by name; got {type(part).__name__}.")
    if evaluator.metric not in part:
        _breaks(evaluator, f"judge must give an entry '{evaluator.metric}'; got {list(part)}.")
    shapes = {name: tuple(values.shape) for name, values in part.items()}
    if wrong := {name: shape for name, shape in shapes.items() if shape != (n,)}:
        _breaks(evaluator, f"judge must give one value an image, shape ({n},); got {wrong}.")
    says = evaluator.claims or evaluator.refutes
    if says is not None and part[evaluator.metric].dtype != torch.bool:
        _breaks(
            evaluator,
            f"it claims or refutes a ball, so its entry '{evaluator.metric}' must be boolean; got "
            f"{part[evaluator.metric].dtype}.",
        )


def _breaks(evaluator: Evaluator, how: str) -> NoReturn:
    raise ContractError(evaluator, f"evaluator '{evaluator.metric}': {how}")
