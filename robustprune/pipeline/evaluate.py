"""Evaluating a network: each evaluator on each test image, shared among the processes of a job.

All processes do the same here, each on its own batches, and know the same in the end. Results do
not depend on their number: random draws are seeded by the batch. The console that is handed in
prints in the main process only.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.artifacts.saved import SavedModel
from robustprune.components import Part, check_installed
from robustprune.datasets import Splits
from robustprune.errors import UsageError
from robustprune.evaluators import Evaluator
from robustprune.evaluators.accuracy import PerImage
from robustprune.families import family
from robustprune.measures import Measure, Values, measure
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.evaluation_state import JudgedBatch, KeptBatches, Subject
from robustprune.pipeline.images import ImageTable
from robustprune.pipeline.initial_network import check_takes, classes_of
from robustprune.pipeline.intake import doubt
from robustprune.pipeline.sanity import (
    Alarm,
    Dead,
    alarm_text,
    alarms,
    dead_text,
    find_dead,
    flat_text,
)
from robustprune.pipeline.sparse import Entry, SparseCopies
from robustprune.recipe import ComputeOptions
from robustprune.shard import Shard
from robustprune.tracking import Console
from robustprune.types import Batch

_ALONE = Shard()


@dataclass
class Evaluation:
    """Results of some evaluators and measures on a network.

    Attributes:
        metrics: numbers, as an entry of ``results.json`` has them.
        measures: values by the measure's name.
        images: results of each image.
        alarms: certificates that an attack refuted; see `robustprune.pipeline.sanity`.
        dead: set if the network gives one answer to all images.
        sparse: the choices of the sparse copies that evaluators judged in the network's place.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, Values] = field(default_factory=dict)
    images: ImageTable = field(default_factory=ImageTable)
    alarms: list[Alarm] = field(default_factory=list)
    dead: Dead | None = None
    sparse: list[Entry] = field(default_factory=list)

    @property
    def entry(self) -> dict[str, Any]:
        """The part of a network's entry in ``results.json``: metrics, and the others if any."""
        others = {"measures": self.measures, "alarms": self.alarms, "dead": self.dead}
        others |= {"sparse": self.sparse}
        return {"metrics": self.metrics, **{key: found for key, found in others.items() if found}}


def parts_of(
    metadata: dict[str, Any],
    *,
    data: str | Mapping[str, Any] | None = None,
    root: Path | None = None,
    evaluators: Sequence[dict[str, Any]] | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
) -> tuple[Part, list[Evaluator]]:
    """The dataset and the evaluators: as the network's recipe had them, or as asked for.

    Args:
        metadata: the model file's.
        data: another dataset, by name or as recipes write it; options of the network's own stay.
        root: where the dataset's files are.
        evaluators: as recipes write them; the recipe's own if None.
        samples: judge only so many images.
        batch_size: images per batch, for all evaluators.

    Raises:
        UsageError: an unknown name or a wrong option.
    """
    asked: dict[str, Any] = {"name": data} if isinstance(data, str) else dict(data or {})
    own = dict(metadata.get("data") or {})
    if asked.get("name", own.get("name")) == own.get("name"):
        asked = own | asked
    if "name" not in asked:
        choices = ", ".join(family("datasets").names())
        raise UsageError(f"the file names no dataset; name one with --data. Choices: {choices}.")
    if root is not None:
        asked["root"] = root
    if evaluators is None:
        evaluators = metadata.get("evaluate") or [{"name": "clean"}]
    parts = evaluators_of(evaluators, samples=samples, batch_size=batch_size)
    return create_part("datasets", asked), parts


def evaluators_of(
    documents: Sequence[Mapping[str, Any]], *, samples: int | None, batch_size: int | None
) -> list[Evaluator]:
    """Evaluators as recipes write them, all with these limits where they are no None.

    Raises:
        UsageError: an unknown name, a wrong option, or two with one metric.
    """
    limits = {"samples": samples, "batch_size": batch_size}
    limits = {key: value for key, value in limits.items() if value is not None}
    parts = [create_part("evaluators", {**document, **limits}) for document in documents]
    for name, number in Counter(part.metric for part in parts).items():
        if number > 1:
            raise UsageError(f"evaluator '{name}' stands {number} times; give each a label=….")
    return parts


def create_part(of: str, document: Mapping[str, Any]) -> Any:
    """A part of a family, from a document as recipes write it.

    Raises:
        UsageError: an unknown name or a wrong option.
    """
    options = dict(document)
    return family(of).create(options.pop("name"), **options)


def evaluate_saved(
    tasks: Mapping[str, tuple[SavedModel, Part, list[Evaluator]]],
    *,
    seed: int | None = None,
    console: Console,
    measures: Sequence[Measure] = (),
    options: ComputeOptions | None = None,
    kept: Callable[[str, str], Path] | None = None,
    choices: Callable[[str], Path] | None = None,
) -> dict[str, Evaluation]:
    """Evaluate saved networks; each as in its run if nothing differs from it.

    Args:
        tasks: a network from its file, a dataset, and what to judge it by; by the file's path.
        seed: the one of the network's recipe if None.
        console: shows bars, and is told of alarms; silent in all processes but the main one.
        measures: what to measure besides.
        options: device, threads and sparse kernels; the memory format is the network's own.
        kept: from a task's key and a metric to the folder where finished batches are.
        choices: from a task's key to the file where those of its sparse copies are.

    Raises:
        UsageError: a library or a dataset's files are missing, or a network does not take its
            images; nothing was judged.
    """
    check_installed(*(part for task in tasks.values() for part in (task[1], *task[2])))
    found = {}
    options = options or ComputeOptions()
    with Compute(options) as compute:
        shard = compute.shard
        where: Any = {"device": compute.device, "console": console, "shard": shard}
        subjects = {}
        for key, (saved, data, evaluators) in tasks.items():  # all, before anything is computed
            try:
                if is_quantised(saved.model):
                    check_quantised(evaluators, measures)
                subjects[key] = shard.in_turn(partial(_subject_of, saved, data, seed))
            except UsageError as error:
                raise UsageError(f"{key}: {error}" if len(tasks) > 1 else f"{error}") from error
        for key, (saved, _, evaluators) in tasks.items():
            subject, shape = subjects[key]
            last = subject.about["channels_last"]
            layout = torch.channels_last if last else torch.preserve_format
            saved.model.to(device=compute.device, memory_format=layout)  # type: ignore[call-overload]
            if "recipe" not in saved.metadata and evaluators:  # it is no run's
                about = saved.metadata["model"]
                ask = partial(doubt, saved.model, subject.test, about, device=compute.device)
                if text := shard.lead(ask):
                    console.warn(f"{key}: {text}")
            folders = None if kept is None else partial(kept, key)
            record = None if choices is None else choices(key)
            where["sparse"] = options.sparse
            found[key] = evaluate(subject, evaluators, kept=folders, choices=record, **where)
            found[key].measures = shard.lead(partial(measure, saved, measures, shape=shape))
    return found


def is_quantised(model: nn.Module) -> bool:
    """True of a network that another runtime computes in 8 bits, or that has such a part."""
    return any(getattr(part, "quantised", False) for part in model.modules())


def check_quantised(evaluators: Sequence[Evaluator], measures: Sequence[Measure]) -> None:
    """Make sure that a quantised network is judged by what holds for one.

    Raises:
        UsageError: a certificate or a measure does not.
    """
    if bounds := [one.registered_name for one in evaluators if one.claims is not None]:
        raise UsageError(
            f"{', '.join(bounds)}: the network is quantised to int8, and interval and linear "
            "bounds are of networks that compute in real numbers: they know nothing of the steps "
            "to which its activations are rounded. Of certificates there is smoothing "
            "(`robustprune certify`), which asks for answers only."
        )
    if others := [one.registered_name for one in measures if one.registered_name != "latency"]:
        raise UsageError(
            f"{', '.join(others)}: only latency is measured of a network that is quantised to int8."
        )


def _subject_of(
    saved: SavedModel, data: Part, seed: int | None
) -> tuple[Subject, tuple[int, int, int]]:
    """A network and its images, of this shape, that it takes and of whose classes it knows."""
    about = saved.metadata
    seed = int(about.get("seed", 0)) if seed is None else seed
    classes = classes_of(about)
    try:
        if classes:
            data = data.for_network(classes)  # type: ignore[attr-defined]
        splits: Splits = data.load(seed=seed, train=False)  # type: ignore[attr-defined]
    except UsageError as error:
        raise UsageError(f"{error}\nIf its files are elsewhere, say so with --root.") from error
    if not splits.test:
        raise UsageError("the dataset has no test images to evaluate on.")
    logits = check_takes(saved.model, splits, name=about["model"]["name"])
    if not classes and logits != splits.num_classes:
        raise UsageError(
            f"the network tells {logits:,} classes apart and the dataset has {splits.num_classes}: "
            "which outputs stand for them is not known. Name the network's classes in the order of "
            "its outputs: --classes."
        )
    facts = {"architecture": about["model"], "channels_last": bool(about.get("channels_last"))}
    name = str(about.get("network", ""))
    subject = Subject(saved.model, splits.test, network=name, seed=seed, about=facts)
    return subject, (splits.channels, splits.image_size, splits.image_size)


def evaluate(
    subject: Subject,
    evaluators: Sequence[Evaluator],
    *,
    device: torch.device,
    console: Console,
    shard: Shard = _ALONE,
    kept: Callable[[str], Path] | None = None,
    table: Path | None = None,
    sparse: str = "off",
    choices: Path | None = None,
    after: Callable[[Evaluation], None] = lambda found: None,
) -> Evaluation:
    """Let each evaluator judge a network, unless its results are there already.

    Args:
        subject: the network and the test images.
        evaluators: what to judge it by.
        device: the network's device.
        console: shows bars and warnings, and is told of alarms at once; the caller decides what
            they end.
        shard: this process's place among those of the job, all of which must call this.
        kept: from a metric to the folder where finished batches are; None: nowhere.
        table: the parquet file of the images' results, written after each evaluator; one that is in
            it already is not asked again.
        sparse: the use of sparse kernels: ``auto``, ``on`` or ``off``, as in recipes.
        choices: the file of what they are used for, which is written before they are used.
        after: is called with what is known so far: after each evaluator, and after an alarm.

    Raises:
        UsageError: there are no test images, or a certificate is asked for a quantised network.
        ContractError: an evaluator gives something else than it must.
        PeerError: another process has failed.
    """
    if is_quantised(subject.model):
        check_quantised(evaluators, [])
        sparse = "off"  # nothing in it can be traced
    found = Evaluation(dead=shard.lead(lambda: find_dead(subject, evaluators, device=device)))
    if found.dead is not None:
        console.warn(dead_text(subject.network or "the network", found.dead))
    elif flat := shard.lead(lambda: flat_text(subject, evaluators, device=device)):
        console.warn(flat)
    if table is not None and evaluators:
        known = [evaluator.metric for evaluator in evaluators]
        found.images = shard.lead(lambda: ImageTable.read(table, known))
    where: Any = {"device": device, "console": console, "shard": shard}
    copies = SparseCopies(subject, use=sparse, record=choices, **where)
    with _warnings_to(console):
        copies.choose([e for e in evaluators if e.metric not in found.images.evaluators])
    found.sparse = copies.shown
    for evaluator in evaluators:
        name = evaluator.metric
        if name not in found.images.evaluators:
            choice, folder = copies.choices(evaluator), kept and kept(name)
            batches = KeptBatches(folder, subject, evaluator, shard, choices=choice)
            with _warnings_to(console):
                labels, images = judge(evaluator, copies.subject(evaluator), kept=batches, **where)
            found.images.add(name, labels, images)
            if table is not None:
                shard.lead(partial(found.images.write, table))  # first: a kill loses nothing
                batches.clear()
        found.metrics |= evaluator.summarise(found.images.entries(name))
        after(found)
    found.alarms = alarms(evaluators, found.images)
    if found.alarms:
        console.error(alarm_text({subject.network: found.alarms}))
        after(found)
    return found


@contextmanager
def _warnings_to(console: Console) -> Iterator[None]:
    """Let the console show the warnings of evaluators and libraries, as it does ours."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *place, **more: console.warn(str(message))
        yield


def judge(
    evaluator: Evaluator,
    subject: Subject,
    *,
    device: torch.device,
    console: Console,
    shard: Shard = _ALONE,
    kept: KeptBatches | None = None,
) -> tuple[Tensor, PerImage]:
    """Let an evaluator judge the first images of the test set.

    Each process judges one batch in every round; the main one keeps them. A job that was killed and
    resumed judges at most one batch per process again. The arguments are those of `evaluate`.

    Returns:
        The labels, ``(n,)``, int64, and the results of the first n test images.
    """
    if not subject.test:
        raise UsageError("the dataset has no test images to evaluate on.")
    kept = kept or KeptBatches(None, subject, evaluator, shard)
    n = min(evaluator.samples or len(subject.test), len(subject.test))
    done = kept.read()
    left = [number for number in range(-(-n // evaluator.batch_size)) if number not in done]
    title, before = f"{subject.network} {evaluator.metric}", _count(done.values())
    own = _judged(evaluator, subject, left[shard.rank :: shard.world], n=n, device=device)
    part = (subject.network, evaluator.metric, before)
    progressing = console.progress(title, n, unit="image", before=before, part=part)
    with closing(own), progressing as bar:
        # a batch of each process that has any left; a fault in one of them stops all
        while batches := [*chain(*shard.gather(shard.together(lambda: [*islice(own, 1)])))]:
            done |= {batch.number: batch for batch in batches}
            kept.add(batches)
            values = torch.cat([batch.images[evaluator.metric] for batch in done.values()])
            kind = "accuracy" if values.dtype == torch.bool else "mean"
            bar.advance(_count(batches), **{kind: float(values.double().mean())})
    ordered = [done[number] for number in sorted(done)]
    images = {key: torch.cat([b.images[key] for b in ordered]) for key in ordered[0].images}
    return torch.cat([batch.labels for batch in ordered]), images


def _judged(
    evaluator: Evaluator,
    subject: Subject,
    numbers: Sequence[int],
    *,
    n: int,
    device: torch.device,
) -> Generator[JudgedBatch]:
    """Judge the batches with these numbers, of those of the first ``n`` images."""
    labels: list[Tensor] = []

    def batches() -> Iterator[Batch]:
        assert subject.test is not None
        read = subject.test.ordered(evaluator.batch_size, limit=n, numbers=numbers)
        for number, (images, targets) in zip(numbers, read, strict=True):
            labels.append(targets.cpu())
            yield Batch(number, images.to(device), targets.to(device))

    parts = evaluator.evaluate(subject.model, batches(), seed=subject.seed, network=subject.network)
    for number, part in zip(numbers, parts, strict=True):
        yield JudgedBatch(number, labels[-1], part)


def _count(batches: Iterable[JudgedBatch]) -> int:
    return sum(len(batch.labels) for batch in batches)
