"""Sources: where batches come from. Every draw of an epoch is made when it begins.

The order, the augmentations and the extra images follow from the generator alone, whatever the
number of worker processes; with several ranks, each takes its share of the same global batches.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from robustprune.errors import UsageError
from robustprune.types import Images

Augment = Callable[[Tensor, Tensor], Tensor]
"""``(images (n, c, h, w), draws (n, DRAWS)) -> images`` of the same shape and type."""

DRAWS = 3
"""Random integers an image gets at each epoch, uniform in [0, 2**62)."""


class TrainingBatch(NamedTuple):
    """The images that a process learns from in one step."""

    images: Tensor
    """``(n, c, h, w)``, float32 in [0, 1]."""
    labels: Tensor
    """``(n,)``, int64."""
    total: int
    """Images of the batch on all processes together."""


class Source(ABC):
    """Labelled images, in batches. A subclass says how it reads the images of one batch."""

    workers: int = 0
    """Processes that read ahead; 0 reads in this one."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of labelled images."""

    @abstractmethod
    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """Return the images at ``indices``, ``(n,)``, uint8 in [0, 255] or float in [0, 1].

        The ``draws``, ``(n, DRAWS)``, decide the augmentation; without them there is none.
        """

    @abstractmethod
    def select(self, indices: Tensor, *, augment: bool = True) -> Source:
        """Return a source of the images at ``indices`` only, in that order."""

    @abstractmethod
    def digest(self) -> str:
        """Return 16 hex digits that tell data sets apart, whatever the augmentation."""

    def steps(self, batch_size: int, *, world: int = 1) -> int:
        """Return the number of batches of an epoch, of which the last may be partial.

        It is dropped if a rank would get fewer than two images, because BatchNorm needs two.

        Raises:
            UsageError: the batch cannot be shared among ``world`` ranks.
        """
        if batch_size < world:
            raise UsageError(f"a batch of {batch_size} cannot be shared among {world} processes.")
        full, rest = divmod(len(self), batch_size)
        return full + (rest >= 2 * world)

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[TrainingBatch]:
        """Yield one epoch: every labelled image once, shuffled and augmented.

        Args:
            batch_size: labelled images per batch, on all ranks together.
            generator: on the CPU; the only source of randomness, the same on every rank.
            rank: gets the images rank, rank + world, … of each batch.
            world: the number of processes.
            start: batches to leave out, of an epoch that was interrupted.
        """
        plan = self.plan(batch_size, self.steps(batch_size, world=world), generator)
        draws = [torch.randint(2**62, (len(b), DRAWS), generator=generator) for b in plan]
        mine = slice(rank, None, world)
        keys = [(b[mine], d[mine]) for b, d in zip(plan, draws, strict=True)]
        batches = zip(self._stream(keys[start:]), plan[start:], strict=True)
        return (TrainingBatch(*images, len(all_ranks)) for images, all_ranks in batches)

    def ordered(
        self, batch_size: int, *, limit: int | None = None, numbers: Iterable[int] | None = None
    ) -> Iterator[Images]:
        """Yield the first ``limit`` images in file order, not augmented; all by default.

        Of their batches, the last of which may be partial, only those of ``numbers`` are read.
        """
        count = len(self) if limit is None else min(limit, len(self))
        chunks = torch.split(torch.arange(count), batch_size) if count else ()
        wanted = range(len(chunks)) if numbers is None else numbers
        return self._stream([(chunks[number], None) for number in wanted])

    def plan(self, batch_size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
        """Return the indices of each global batch of an epoch."""
        order = torch.randperm(len(self), generator=generator)
        return list(torch.split(order, batch_size)[:steps])

    def _stream(self, keys: Sequence[tuple[Tensor, Tensor | None]]) -> Iterator[Images]:
        loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]  # anything with items does
            batch_size=None,  # the keys are batches already
            sampler=keys,
            num_workers=self.workers,
            generator=torch.Generator(),  # or the loader draws a seed from the global one
        )
        for item in loader:
            if isinstance(item, UsageError):
                raise item
            yield Images(as_float(item.images), item.labels)

    def __getitem__(self, key: tuple[Tensor, Tensor | None]) -> Images | UsageError:
        try:
            return self.read(*key)
        except UsageError as error:
            return error  # raised by a worker, it would arrive with a traceback in its message


@dataclass(eq=False)
class TensorSource(Source):
    """Images held in memory."""

    images: Tensor
    """``(n, c, h, w)``, uint8 in [0, 255] or float in [0, 1]."""
    labels: Tensor
    """``(n,)``, int64."""
    augment: Augment | None = None
    """Applied to the images of `batches`."""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """Return the images at ``indices``; see `Source.read`."""
        images = self.images[indices]
        if draws is not None and self.augment is not None:
            images = self.augment(images, draws)
        return Images(images, self.labels[indices])

    def select(self, indices: Tensor, *, augment: bool = True) -> TensorSource:
        """Return a copy of the images at ``indices``; see `Source.select`."""
        kept = self.augment if augment else None
        return TensorSource(self.images[indices], self.labels[indices], kept)

    def digest(self) -> str:
        """Return a digest of every pixel and label; CIFAR-10 takes 0.2 s."""
        kind = f"{self.images.dtype} {tuple(self.images.shape)}".encode()
        return fingerprint(kind, self.images, self.labels)


@dataclass(eq=False)
class Mixed(Source):
    """Labelled images, with a fixed number of extra ones at the end of each training batch.

    An epoch is one pass over the labelled images. The extra ones are drawn without replacement
    until all have been seen in this epoch, then anew.
    """

    labelled: Source
    extra: Source
    per_batch: int = field(kw_only=True)
    """Number added to each global batch."""

    def __post_init__(self) -> None:
        self.workers = self.labelled.workers

    def __len__(self) -> int:
        return len(self.labelled)

    def plan(self, batch_size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
        """Return the indices of each global batch; from len(self) on they are extra images'."""
        passes = -(-steps * self.per_batch // len(self.extra))
        shuffled = [torch.randperm(len(self.extra), generator=generator) for _ in range(passes)]
        batches = super().plan(batch_size, steps, generator)
        if not batches:
            return []
        added = torch.split(torch.cat(shuffled) + len(self), self.per_batch)
        return [torch.cat(pair) for pair in zip(batches, added, strict=False)]

    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """Return the images at ``indices``, the extra ones last; see `Source.read`."""
        count = int((indices < len(self)).sum())
        if draws is None or count == len(indices):  # unaugmented batches are of labelled images
            return self.labelled.read(indices, draws)
        labelled = self.labelled.read(indices[:count], draws[:count])
        extra = self.extra.read(indices[count:] - len(self), draws[count:])
        images = torch.cat([as_float(labelled.images), as_float(extra.images)])
        return Images(images, torch.cat([labelled.labels, extra.labels]))

    def digest(self) -> str:
        """Return a digest of the labelled and the extra images, and of how they are mixed."""
        parts = f"{self.labelled.digest()} {self.extra.digest()} {self.per_batch}"
        return fingerprint(parts.encode())

    def select(self, indices: Tensor, *, augment: bool = True) -> Source:
        """Return a source of labelled images; the extra ones stay as they are."""
        return replace(self, labelled=self.labelled.select(indices, augment=augment))


def balanced(
    batches: Iterable[TrainingBatch], per_class: int, *, classes: int
) -> Iterator[TrainingBatch]:
    """Yield batches of ``per_class`` images of each class, in their order; the rest is dropped."""
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
    """Return 16 hex digits of SHA-256 over ``parts``, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else part.cpu().contiguous().numpy().data)
    return found.hexdigest()[:16]


def as_float(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1], from uint8 in [0, 255] or float in [0, 1]."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
