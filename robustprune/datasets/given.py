"""Images as users of torch hold them: a loader, a dataset of (image, label) pairs, two tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset, default_collate

from robustprune.datasets.source import (
    Source,
    TensorSource,
    TrainingBatch,
    as_float,
    fingerprint,
)
from robustprune.errors import UsageError, first_line
from robustprune.seeding import fork
from robustprune.types import Images

KINDS = (
    "a torch.utils.data.DataLoader, a dataset of (image, label) pairs, a pair of tensors (images, "
    "labels), or one of robustprune's datasets by name or as rp.datasets.create makes it"
)
_ROUNDING = 1e-5  # that resizing may leave [0, 1] by


def source(data: Any, *, name: str) -> Source:
    """The images that a caller holds; ``name`` is that of the argument, for messages.

    Raises:
        UsageError: it is nothing of the `KINDS`.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor):
        return TensorSource(*checked(data, name=name))
    if isinstance(data, DataLoader) or (_iterable(data) and not hasattr(data, "__getitem__")):
        return LoaderSource(data, name=name)
    if hasattr(data, "__getitem__") and isinstance(data, Sized):
        return DatasetSource(data, name=name)
    raise UsageError(f"{name}: expected {KINDS}; got {type(data).__name__}.")


def checked(batch: Any, *, name: str, classes: int | None = None) -> Images:
    """A batch as images and labels, if it is one; labels are below ``classes`` where that is known.

    Raises:
        UsageError: it is none, or the images are normalised already.
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise UsageError(
            f"{name}: expected batches (images, labels); got a {type(batch).__name__}. Give the "
            "loader a collate_fn that makes such."
        )
    images, labels = batch[:2]
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(
            f"{name}: expected images (n, channels, height, width); got {got}. Let a transform "
            "make tensors of them, e.g. torchvision.transforms.ToTensor()."
        )
    if not isinstance(labels, Tensor) or labels.shape != images.shape[:1] or _real(labels):
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else labels
        raise UsageError(
            f"{name}: expected the number of a class for each image, int64 ({len(images)},); got "
            f"{got!s:.60}. Mixed labels (MixUp, one-hot) are not for robust objectives."
        )
    check_labels(labels, classes, name=name)
    if images.dtype != torch.uint8:
        low, high = images.min().item(), images.max().item()
        if not (_real(images) and low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise UsageError(
                f"{name}: expected images as floats in [0, 1] or bytes; got {images.dtype} from "
                f"{low:.4g} to {high:.4g}. Leave Normalize out of the transforms and say mean=… "
                "and std=…: the network is then given normalised images, and radii mean pixels."
            )
    return Images(images, labels.long())


def check_labels(labels: Tensor, classes: int | None, *, name: str) -> None:
    """Make sure that labels are places of a network's logits, where their number is known.

    Raises:
        UsageError: some are none.
    """
    low, high = int(labels.min()), int(labels.max())
    if classes is not None and not 0 <= low <= high < classes:
        raise UsageError(
            f"{name}: labels must be 0 to {classes - 1}, the places of the network's logits; got "
            f"{low} to {high}."
        )


@dataclass(eq=False)
class DatasetSource(Source):
    """A dataset of torch's kind: ``dataset[i]`` is an image and its label.

    What its transforms draw, from torch, numpy or python, follows from the seed of an epoch.
    """

    dataset: Any
    name: str = "data"
    collate: Callable[[list[Any]], Any] = default_collate
    classes: int | None = None
    """Number of the network's logits, once it is known; labels are held against it."""

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Tensor, draws: Tensor | None) -> Images:
        """Return the images at ``indices``; see `Source.read`."""
        with fork(0 if draws is None else int(draws[0, 0]), "transforms"):
            items = [self.dataset[index] for index in indices.tolist()]
            try:
                batch = self.collate(items)
            except (TypeError, RuntimeError) as error:  # of PIL's images, and of several sizes
                raise _no_batch(self.name, error) from None
        return checked(batch, name=self.name, classes=self.classes)

    def select(self, indices: Tensor, *, augment: bool = True) -> DatasetSource:
        """Return the images at ``indices`` with the dataset's transforms; see `Source.select`."""
        chosen = Subset(self.dataset, indices.tolist())
        return DatasetSource(chosen, self.name, self.collate, self.classes)

    def digest(self) -> str:
        """Return a digest of every image and label, all of which are read."""
        return fingerprint(*(tensor for batch in self.ordered(256) for tensor in batch))


class LoaderSource(DatasetSource):
    """A loader, whose own batches are learned from: its order, transforms and workers.

    Each pass begins from a seed, so that what it draws from torch's own generator is repeated; a
    loader with a ``generator`` of its own draws from that. In evaluation its images stand in the
    dataset's order.
    """

    def __init__(self, loader: Any, *, name: str) -> None:
        super().__init__(getattr(loader, "dataset", None), name)
        self.loader, self.collate = loader, getattr(loader, "collate_fn", default_collate)
        self._counted: int | None = None
        try:
            with self._undrawn():
                first = next(self._pass(0), None)
        except (TypeError, RuntimeError) as error:
            raise _no_batch(name, error) from error
        if first is None:
            raise UsageError(f"{name}: the loader gives no batch.")
        self.batch_size = int(getattr(loader, "batch_size", None) or len(first.labels))
        try:
            self._steps = len(loader)
        except TypeError:
            raise UsageError(
                f"{name}: the loader has no length, and schedules need to know the steps of an "
                "epoch. Give its dataset a __len__."
            ) from None

    @cached_property
    def indices(self) -> Tensor | None:
        """The numbers of its images in the dataset, sorted, each once; None if it streams them."""
        return None if self._drawn is None else torch.tensor(sorted(set(self._drawn.tolist())))

    @cached_property
    def _drawn(self) -> Tensor | None:
        """The numbers of the images of a pass; some samplers draw images again."""
        sampler, batches = (getattr(self.loader, key, None) for key in ("sampler", "batch_sampler"))
        if batches is None or isinstance(self.dataset, IterableDataset):
            return None
        with fork(0, "order"), self._undrawn():
            usual = type(batches) is BatchSampler
            found = sampler if usual else (index for batch in batches for index in batch)
            return torch.tensor(sorted(cast(Iterable[int], found)))

    def __len__(self) -> int:
        if self.indices is not None:
            return len(self.indices)
        return self._steps * self.batch_size if self._counted is None else self._counted

    def count(self) -> None:
        """Count the images of a stream, which only a pass can tell: its length is of batches."""
        if self.indices is None:
            with self._undrawn():
                self._counted = sum(len(labels) for _, labels in self._pass(0))

    @contextmanager
    def _undrawn(self) -> Iterator[None]:
        """Leave the generators that are the caller's as they were: no pass to learn from begins."""
        parts: tuple[Any, ...] = (self.loader, getattr(self.loader, "sampler", None))
        found = [part.generator for part in parts if getattr(part, "generator", None) is not None]
        states = [generator.get_state() for generator in found]
        try:
            yield
        finally:
            for generator, state in zip(found, states, strict=True):
                generator.set_state(state)

    def steps(self, batch_size: int, *, world: int = 1) -> int:
        """Return the number of its own batches; of a single last image, BatchNorm cannot learn."""
        if batch_size != self.batch_size:
            return super().steps(batch_size, world=world)
        drawn = len(self) if self._drawn is None else len(self._drawn)
        single = drawn == (self._steps - 1) * batch_size + 1
        return self._steps - (single and self._steps > 1)

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[TrainingBatch]:
        """Yield one pass of the loader, its batches joined and cut where others are asked for."""
        seed = int(torch.randint(2**62, (), generator=generator))
        found = self._pass(seed)
        if batch_size != self.batch_size:
            found = rebatched(found, batch_size)
        for images, labels in islice(found, start, self.steps(batch_size)):
            yield TrainingBatch(images, labels, len(labels))

    def select(self, indices: Tensor, *, augment: bool = True) -> DatasetSource:
        """Return the images at ``indices``, no longer in the loader's order; see `Source.select`.

        Raises:
            UsageError: the loader streams its images.
        """
        if self.indices is None:
            raise UsageError(f"{self.name}: images of a stream cannot be chosen by their number.")
        return super().select(self.indices[indices], augment=augment)

    def ordered(
        self, batch_size: int, *, limit: int | None = None, numbers: Iterable[int] | None = None
    ) -> Iterator[Images]:
        """Yield its images in the dataset's order, or as it streams them; see `Source.ordered`."""
        if self.indices is not None:
            every = self.select(torch.arange(len(self)))
            yield from every.ordered(batch_size, limit=limit, numbers=numbers)
            return
        wanted = None if numbers is None else set(numbers)
        count = len(self) if limit is None else limit
        for number, (images, labels) in enumerate(rebatched(self._pass(0), batch_size)):
            left = count - number * batch_size
            if left <= 0:
                return
            if wanted is None or number in wanted:
                yield Images(images[:left], labels[:left])

    def _pass(self, seed: int) -> Iterator[Images]:
        """All batches once. What is drawn for each is drawn in a state of its own."""
        with fork(seed, "loader"):
            iterator, number = iter(self.loader), 0
        while True:
            with fork(seed, "loader", number):
                batch = next(iterator, None)
            if batch is None:
                return
            images, labels = checked(batch, name=self.name, classes=self.classes)
            yield Images(as_float(images), labels)
            number += 1


def rebatched(batches: Iterable[Images], size: int) -> Iterator[Images]:
    """Yield the same images in batches of another size, the last of which may be partial."""
    kept: list[Images] = []
    for batch in batches:
        kept.append(batch)
        while sum(len(one.labels) for one in kept) >= size:
            images, labels = (torch.cat(tensors) for tensors in zip(*kept, strict=True))
            yield Images(images[:size], labels[:size])
            kept = [Images(images[size:], labels[size:])] if len(labels) > size else []
    if kept:
        yield Images(*(torch.cat(tensors) for tensors in zip(*kept, strict=True)))


def _no_batch(name: str, error: Exception) -> UsageError:
    return UsageError(
        f"{name}: its images make no batch ({first_line(error)}). Let transforms make tensors of "
        "one size of them, e.g. torchvision's Resize and ToTensor."
    )


def _real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _iterable(data: Any) -> bool:
    return hasattr(data, "__iter__") and not isinstance(data, str | Tensor)
