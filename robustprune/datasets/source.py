"""Sources: where batches come from. Every draw of an epoch is made when it begins.

The order, the augmentations and the extra images follow from the generator alone, whatever the
number of worker processes; with several ranks, each takes its share of the same global batches.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from robustprune.errors import UsageError
from robustprune.types import Images

Augment = Callable[[Tensor, Tensor], Tensor]
"""``(images (n, c, h, w), draws (n, DRAWS)) -> images`` of the same shape and type."""

DRAWS = 3
"""Random integers an image gets at each epoch, uniform in [0, 2**62)."""


class TrainingBatch(NamedTuple):
    """What a process learns from in one step.

    Attributes:
        images: ``(n, c, h, w)``, float32 in [0, 1].
        labels: ``(n,)``, int64.
        total: images of the whole batch, on all processes together.
    """

    images: Tensor
    labels: Tensor
    total: int


class Source(ABC):
    """Labelled images, in batches. A subclass says how it reads the images of one batch."""

    workers: int = 0
    """Processes that read ahead; 0 reads in this one."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of labelled images."""

    @abstractmethod
    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """The images at ``indices``, uint8 in [0, 255] or float in [0, 1].

        Args:
            indices: ``(n,)``, int64, each in [0, len).
            draws: ``(n, DRAWS)``, what augmentation is to be decided by; None for none.
        """

    @abstractmethod
    def select(self, indices: Tensor, *, augment: bool = True) -> Source:
        """A source of the images at ``indices`` only, in that order; optionally never augmented."""

    @abstractmethod
    def digest(self) -> str:
        """A fingerprint of the labelled images, 16 hex digits, whatever augmentation does to them.

        It tells data sets apart; it is no protection against a forged one.
        """

    def beside(self, images: Images) -> Source:
        """Further images as a source that is augmented like this one, if that can be."""
        return TensorSource(*images)

    def steps(self, batch_size: int, *, world: int = 1) -> int:
        """The number of batches of an epoch.

        The last batch may be partial. It is dropped if a rank would get fewer than two images of
        it, because BatchNorm needs two.

        Raises:
            UsageError: the batch cannot be shared among ``world`` ranks.
        """
        if batch_size < world:
            raise UsageError(f"a batch of {batch_size} cannot be shared among {world} processes.")
        whole, rest = divmod(len(self), batch_size)
        return whole + (rest >= 2 * world)

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[TrainingBatch]:
        """One epoch: every labelled image once, shuffled and augmented.

        Args:
            batch_size: labelled images a global batch, that is on all ranks together.
            generator: on the CPU; the only source of randomness, the same on every rank.
            rank: this process: it gets the images rank, rank + world, … of each global batch.
            world: the number of processes.
            start: batches to leave out, for an epoch that is gone on with.
        """
        plan = self.plan(batch_size, self.steps(batch_size, world=world), generator)
        draws = [torch.randint(2**62, (len(b), DRAWS), generator=generator) for b in plan]
        mine = slice(rank, None, world)
        keys = [(b[mine], d[mine]) for b, d in zip(plan, draws, strict=True)]
        batches = zip(self._stream(keys[start:]), plan[start:], strict=True)
        return (TrainingBatch(*images, len(whole)) for images, whole in batches)

    def ordered(
        self, batch_size: int, *, limit: int | None = None, numbers: Iterable[int] | None = None
    ) -> Iterator[Images]:
        """The first ``limit`` images (all by default) in file order, not augmented.

        Args:
            batch_size: images a batch.
            limit: the number of images.
            numbers: which batches to read, from 0; all of them by default.

        Returns:
            Batches as `batches` gives them; the last of all may be partial.
        """
        count = len(self) if limit is None else min(limit, len(self))
        chunks = torch.split(torch.arange(count), batch_size) if count else ()
        wanted = range(len(chunks)) if numbers is None else numbers
        return self._stream([(chunks[number], None) for number in wanted])

    def plan(self, batch_size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
        """The indices of each global batch of an epoch."""
        order = torch.randperm(len(self), generator=generator)
        return list(torch.split(order, batch_size)[:steps])

    def _stream(self, keys: Sequence[tuple[Tensor, Tensor | None]]) -> Iterator[Images]:
        loader: DataLoader[Any] = DataLoader(
            _Reader(self),
            batch_size=None,  # the keys are batches already
            sampler=keys,
            num_workers=self.workers,
            generator=torch.Generator(),  # or the loader draws a seed from the global one
        )
        for item in loader:
            if isinstance(item, UsageError):
                raise item
            yield Images(as_float(item.images), item.labels)


class _Reader(Dataset[Any]):
    """What the loader, and each worker process, reads a batch with."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, key: tuple[Tensor, Tensor | None]) -> Images | UsageError:
        try:
            return self._source.read(*key)
        except UsageError as error:
            return error  # raised by a worker, it would arrive with a traceback in its message


class TensorSource(Source):
    """Images held in memory.

    Args:
        images: ``(n, c, h, w)``, uint8 in [0, 255] or float in [0, 1].
        labels: ``(n,)``, int64.
        augment: what `batches` does to the images; None for nothing.
    """

    def __init__(self, images: Tensor, labels: Tensor, augment: Augment | None = None) -> None:
        self.images = images
        self.labels = labels
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """The images at ``indices``; see `Source.read`."""
        images = self.images[indices]
        if draws is not None and self.augment is not None:
            images = self.augment(images, draws)
        return Images(images, self.labels[indices])

    def select(self, indices: Tensor, *, augment: bool = True) -> TensorSource:
        """A copy of the images at ``indices``; see `Source.select`."""
        kept = self.augment if augment else None
        return TensorSource(self.images[indices], self.labels[indices], kept)

    def digest(self) -> str:
        """Of every pixel and label; CIFAR-10 takes 0.2 s. See `Source.digest`."""
        kind = f"{self.images.dtype} {tuple(self.images.shape)}".encode()
        return fingerprint(kind, self.images, self.labels)

    def beside(self, images: Images) -> TensorSource:
        """``images`` with this source's augmentation."""
        return TensorSource(*images, self.augment)


class Mixed(Source):
    """Labelled images, with a fixed number of extra ones at the end of each training batch.

    An epoch is one pass over the labelled images. The extra ones are drawn without replacement
    until all have been seen in this epoch, then anew.

    Args:
        labelled: counts as the source's images.
        extra: where the added images come from.
        per_batch: how many are added to each global batch.
    """

    def __init__(self, labelled: Source, extra: Source, *, per_batch: int) -> None:
        self.labelled = labelled
        self.extra = extra
        self.per_batch = per_batch
        self.workers = labelled.workers

    def __len__(self) -> int:
        return len(self.labelled)

    def plan(self, batch_size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
        """The indices of each global batch; those from len(self) on are the extra images'."""
        passes = -(-steps * self.per_batch // len(self.extra))
        shuffled = [torch.randperm(len(self.extra), generator=generator) for _ in range(passes)]
        batches = super().plan(batch_size, steps, generator)
        if not batches:
            return []
        added = torch.split(torch.cat(shuffled) + len(self), self.per_batch)
        return [torch.cat(pair) for pair in zip(batches, added, strict=False)]

    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """The images at ``indices``, labelled ones first; see `Source.read`."""
        is_extra = indices >= len(self)
        if not is_extra.any():
            return self.labelled.read(indices, draws)
        parts = []
        for source, which, start in (
            (self.labelled, ~is_extra, 0),
            (self.extra, is_extra, len(self)),
        ):
            batch = source.read(indices[which] - start, None if draws is None else draws[which])
            parts.append(Images(as_float(batch.images), batch.labels))
        return Images(*map(torch.cat, zip(*parts, strict=True)))

    def digest(self) -> str:
        """Of the labelled and the extra images, and how they are mixed; see `Source.digest`."""
        parts = f"{self.labelled.digest()} {self.extra.digest()} {self.per_batch}"
        return fingerprint(parts.encode())

    def select(self, indices: Tensor, *, augment: bool = True) -> Source:
        """A source of labelled images; the extra ones stay as they are."""
        chosen = self.labelled.select(indices, augment=augment)
        return Mixed(chosen, self.extra, per_batch=self.per_batch)


def balanced(
    batches: Iterable[TrainingBatch], per_class: int, *, classes: int
) -> Iterator[TrainingBatch]:
    """Batches of exactly ``per_class`` images of each class, class by class.

    Images are taken in the order in which they come; those left at the end are dropped.
    """
    waiting: list[list[Tensor]] = [[] for _ in range(classes)]
    labels = torch.arange(classes).repeat_interleave(per_class)
    for batch in batches:
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            waiting[label].append(image)
        while min(map(len, waiting)) >= per_class:
            images = torch.stack([image for group in waiting for image in group[:per_class]])
            waiting = [group[per_class:] for group in waiting]
            yield TrainingBatch(images, labels, len(labels))


def fingerprint(*parts: bytes | Tensor) -> str:
    """16 hex digits of SHA-256 over ``parts``, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else part.cpu().contiguous().numpy().data)
    return found.hexdigest()[:16]


def as_float(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1], from uint8 in [0, 255] or float in [0, 1]."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
