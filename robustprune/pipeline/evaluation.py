"""Judging a network that was saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprune.errors import UsageError
from robustprune.families import family
from robustprune.parts import Part
from robustprune.pipeline import soundness
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.dead import Dead, dead, describe
from robustprune.pipeline.images import ImageTable, check_columns
from robustprune.pipeline.judge import judge
from robustprune.pipeline.network import check_takes
from robustprune.pipeline.progress import Subject
from robustprune.pipeline.relay import in_turn
from robustprune.pipeline.weights import classes_of
from robustprune.recipe import ComputeOptions

if TYPE_CHECKING:
    from robustprune.artifacts.saved import SavedModel
    from robustprune.datasets import Splits
    from robustprune.evaluators import Evaluator
    from robustprune.pipeline.state import StateFolder
    from robustprune.tracking import Console


class Judgement(NamedTuple):
    """What some evaluators say of a saved network.

    Attributes:
        metrics: as an entry of ``results.json`` has them.
        images: what became of each image.
        alarms: certificates that an attack refuted; see `robustprune.pipeline.soundness`.
        dead: set if it gives one answer to all images; see `robustprune.pipeline.dead`.
        is_main: whether this process is the one that writes and prints.
    """

    metrics: dict[str, Any]
    images: ImageTable
    alarms: list[soundness.Alarm]
    is_main: bool = True
    dead: Dead | None = None


def parts_of(
    metadata: dict[str, Any],
    *,
    data: str | Mapping[str, Any] | None = None,
    root: Path | None = None,
    evaluators: Sequence[dict[str, Any]] = (),
    samples: int | None = None,
) -> tuple[Part, list[Evaluator]]:
    """The dataset and the evaluators: as the network's recipe had them, or as asked for.

    Args:
        metadata: the model file's.
        data: another dataset, by name or as recipes write it; options of the network's own stay.
        root: where the dataset's files are.
        evaluators: as recipes write them; the recipe's own if empty.
        samples: judge only so many images.

    Raises:
        UsageError: an unknown name or a wrong option.
    """
    asked: dict[str, Any] = {"name": data} if isinstance(data, str) else dict(data or {})
    own = dict(metadata.get("data") or {})
    source: dict[str, Any] = (
        own | asked if asked.get("name", own.get("name")) == own.get("name") else asked
    )
    if "name" not in source:
        choices = ", ".join(family("datasets").names())
        raise UsageError(f"the file names no dataset; name one with --data. Choices: {choices}.")
    if root is not None:
        source["root"] = root
    documents = [dict(d) for d in evaluators or metadata.get("evaluate") or [{"name": "clean"}]]
    if samples is not None:
        documents = [{**document, "samples": samples} for document in documents]
    parts: list[Evaluator] = [_create("evaluators", document) for document in documents]  # type: ignore[misc]
    for name, number in Counter(part.metric for part in parts).items():
        if number > 1:
            raise UsageError(f"evaluator '{name}' stands {number} times; give each a label=….")
    check_columns(parts)
    return _create("datasets", source), parts


def evaluate(
    saved: SavedModel,
    data: Part,
    evaluators: Sequence[Evaluator],
    *,
    seed: int | None,
    console: Console,
    state: StateFolder | None = None,
) -> Judgement:
    """What each evaluator says; the same as in the run if nothing differs from it.

    Soundness alarms are told to the console at once; the caller decides what they end.

    Args:
        saved: the network.
        data: a dataset.
        evaluators: what to judge by.
        seed: the one of the network's recipe if None.
        console: shows bars, and is told of alarms.
        state: where finished batches are kept, so that an evaluation that was killed goes on; it
            is opened, and left to the caller to be removed.

    Raises:
        UsageError: the dataset's files are missing, the network does not take its images, or the
            state cannot be written.
    """
    seed = int(saved.metadata.get("seed", 0)) if seed is None else seed
    network = str(saved.metadata.get("network", ""))
    metrics: dict[str, Any] = {}
    images = ImageTable()
    layout = ComputeOptions(channels_last=bool(saved.metadata.get("channels_last")))
    with Compute(layout) as compute:
        shard = compute.shard
        splits = in_turn(lambda: _images(data, saved, seed), shard=shard)
        if state is not None:
            shard.lead(state.open)
        model = compute.placed(saved.model)
        about = {"architecture": saved.metadata["model"], "channels_last": layout.channels_last}
        subject = Subject(model, splits.test, network=network, seed=seed, about=about)
        found_dead = shard.lead(lambda: dead(subject, evaluators, device=compute.device))
        for evaluator in evaluators:
            verdict = judge(
                evaluator,
                subject,
                device=compute.device,
                console=console,
                shard=shard,
                progress=None if state is None else state.judged(evaluator.metric),
            )
            metrics |= verdict.metrics
            images.add(evaluator.metric, verdict.labels, verdict.images)
    found = soundness.alarms(evaluators, images)
    if found and shard.is_main:
        console.error(soundness.describe(network, found))
    if found_dead is not None and shard.is_main:
        console.warn(describe(network or "the network", found_dead))
    return Judgement(metrics, images, found, shard.is_main, found_dead)


def _images(data: Part, saved: SavedModel, seed: int) -> Splits:
    """The test images, once it is sure that the network takes them and means the same classes."""
    classes = classes_of(saved.metadata)
    try:
        if classes:
            data = data.for_network(classes)  # type: ignore[attr-defined]
        splits: Splits = data.load(seed=seed, train=False)  # type: ignore[attr-defined]
    except UsageError as error:
        raise UsageError(f"{error}\nIf its files are elsewhere, say so with --root.") from error
    if not splits.test:
        raise UsageError("the dataset has no test images to evaluate on.")
    logits = check_takes(saved.model, splits, name=saved.metadata["model"]["name"])
    if not classes and logits != splits.num_classes:
        raise UsageError(
            f"the network tells {logits:,} classes apart and the dataset has {splits.num_classes}: "
            "which outputs stand for them is not known. Name the network's classes in the order of "
            "its outputs: --classes."
        )
    return splits


def _create(name: str, document: dict[str, Any]) -> Part:
    fields = {key: value for key, value in document.items() if key != "name"}
    part: Part = family(name).create(document["name"], **fields)
    return part
