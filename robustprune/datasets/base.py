"""The base of every dataset: its options, its splits, and nothing about files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from pydantic import Field

from robustprune.components import Part
from robustprune.datasets.extra import Extra
from robustprune.datasets.files import places
from robustprune.datasets.source import Mixed, Source, TensorSource
from robustprune.errors import UsageError
from robustprune.paths import told
from robustprune.seeding import derive


@dataclass(frozen=True)
class Splits:
    """The images of a dataset, as `Dataset.load` gives them: those that were asked for.

    Validation and test images are never augmented. Labels and sizes are as in `Dataset`.
    """

    train: Source | None
    validation: Source | None
    """Training images that were held out, if any were."""
    test: Source | None
    num_classes: int
    channels: int
    image_size: int
    class_names: tuple[str, ...] = ()

    def part(self, share: float, *, seed: int) -> Splits:
        """Return the same with a share of the training images; larger shares hold the smaller ones.

        Raises:
            UsageError: the share is less than two images.
        """
        if share == 1:
            return self
        assert self.train is not None
        total = len(self.train)
        count = round(share * total)
        if count < 2:
            raise UsageError(f"share: {share:g} of {total} training images is fewer than two.")
        chosen = _permutation(total, derive(seed, "prune", "share"))[:count]
        return replace(self, train=self.train.select(chosen.sort().values))


class Dataset(Part, ABC):
    """A registered dataset. A subclass says what its images are, and opens them.

    ``num_classes``, ``channels`` and ``image_size`` may be plain class variables.
    """

    root: Path | None = None
    """The folder, `data/<name>` if left out. A relative one is looked for from the working
    directory, then as `$ROBUSTPRUNE_DATA/<root>`, then as `$ROBUSTPRUNE_DATA/<name>`."""
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the training images held out, chosen by the recipe's seed."""
    subset: int | None = Field(None, gt=0)
    """Learn from this many training images only, the first after the split."""
    extra: Extra | None = None
    """Pseudo-labelled images, a fixed number of which is added to each training batch."""
    augment: bool = True
    """Augment training images in the way that is usual for this dataset."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """The number of classes; labels are 0 … num_classes − 1."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width in pixels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names in the order of their labels; empty if they have none."""
        return ()

    @abstractmethod
    def open(self, *, train: bool) -> Source:
        """Return all training images, augmented if `augment` says so, or all test images.

        Raises:
            UsageError: files are missing or damaged; it says where they were looked for.
        """

    def for_network(self, classes: Sequence[str]) -> Self:
        """Return this dataset with labels that are the outputs of a network of these classes.

        Raises:
            UsageError: the classes are others, or stand in another order.
        """
        own = self.class_names
        if tuple(classes) != own and (own or len(classes) != self.num_classes):
            raise other_classes(self, classes)
        return self

    def load(self, *, seed: int, train: bool = True, test: bool = True) -> Splits:
        """Return the training images, the test images or both; ``seed`` decides what is held out.

        Raises:
            UsageError: files are missing or damaged, or options do not fit them.
        """
        with told(f"dataset '{self.registered_name}'", "Name another folder: data.root."):
            learning = self.open(train=True) if train else None
            testing = self.open(train=False) if test else None
        learn, held_out = (None, None) if learning is None else self._split(learning, seed)
        sizes = (self.num_classes, self.channels, self.image_size, self.class_names)
        return Splits(learn, held_out, testing, *sizes)

    def _places(self) -> list[Path]:
        return places(self.root or Path("data", self.registered_name), self.registered_name)

    def _expected(self) -> dict[str, int]:
        sizes = {"channels": self.channels, "size": self.image_size}
        return {**sizes, "num_classes": self.num_classes}

    def _split(self, source: Source, seed: int) -> tuple[Source, Source | None]:
        count = len(source)
        held = max(1, round(self.validation * count)) if self.validation else 0
        left = count - held
        if left < max(1, self.subset or 0):
            raise UsageError(
                f"dataset '{self.registered_name}': {self.subset or 1} training images were asked "
                f"for, but of {count} only {left} are left after validation: {self.validation}."
            )
        order = _permutation(count, derive(seed, "split"))
        kept = order[held:].sort().values[: self.subset]  # file order: subset means the first ones
        validation = source.select(order[:held].sort().values, augment=False) if held else None
        training = source if len(kept) == count else source.select(kept)
        if self.extra is not None:
            images = self.extra.load(**self._expected())
            augment = training.augment if isinstance(training, TensorSource) else None
            extra = TensorSource(*images, augment)
            training = Mixed(training, extra, per_batch=self.extra.per_batch)
        return training, validation


def _permutation(count: int, seed: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def other_classes(data: Dataset, classes: Sequence[str]) -> UsageError:
    """Return the error that says how a network's ``classes`` and those of a dataset differ."""
    names = data.class_names
    strange = [name for name in names if name not in classes]
    why = f": {few(strange)} not among them" if strange else ""
    told = (
        f"the network's {len(classes):,} classes are {few(classes)}; those of dataset "
        f"'{data.registered_name}' are {few(names) or data.num_classes}{why}."
    )
    if sorted(names) == sorted(classes):
        return UsageError(
            f"{told} They are the same in another order, and the labels of this dataset are fixed: "
            "reorder the rows of the network's last layer."
        )
    return UsageError(
        f"{told} If they mean the same, name the classes in the order of the network's outputs: as "
        "the folders are called with --classes, or in a recipe's data.classes. Otherwise take "
        "another dataset."
    )


def few(names: Sequence[str], *, most: int = 5) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
