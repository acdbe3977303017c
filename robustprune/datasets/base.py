"""The base of every dataset: its options, its splits, and nothing about files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field

from robustprune.datasets.extra import Extra
from robustprune.errors import UsageError
from robustprune.parts import Part
from robustprune.paths import told
from robustprune.seeding import derive

if TYPE_CHECKING:
    from robustprune.datasets.source import Source


@dataclass(frozen=True)
class Splits:
    """What `Dataset.load` gives.

    Attributes:
        train: the images to learn from, or None if they were not asked for.
        validation: training images held out, never augmented; None if none were.
        test: the test images, never augmented; None if they were not asked for.
        num_classes: labels are 0 … num_classes − 1.
        channels: 1 (grey) or 3 (RGB).
        image_size: height and width in pixels.
        class_names: the classes' names in the order of their labels; empty if they have none.
    """

    train: Source | None
    validation: Source | None
    test: Source | None
    num_classes: int
    channels: int
    image_size: int
    class_names: tuple[str, ...] = ()

    def part(self, share: float, *, seed: int) -> Splits:
        """The same with a share of the training images: the first of one random order.

        Larger shares hold the smaller ones.

        Raises:
            UsageError: the share is less than two images.
        """
        import torch

        if share == 1:
            return self
        assert self.train is not None
        total = len(self.train)
        count = round(share * total)
        if count < 2:
            raise UsageError(f"share: {share:g} of {total} training images is fewer than two.")
        generator = torch.Generator().manual_seed(derive(seed, "prune", "share"))
        chosen = torch.randperm(total, generator=generator)[:count]
        return replace(self, train=self.train.select(chosen.sort().values))


class Dataset(Part, ABC):
    """A registered dataset. A subclass says what its images are, and opens them.

    ``num_classes``, ``channels`` and ``image_size`` may be plain class variables
    (``num_classes: ClassVar[int] = 10``); `open` does the rest.
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
    """Whether training images are augmented, in the way that is usual for this dataset."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """The number of classes."""

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

    def for_network(self, classes: Sequence[str]) -> Self:
        """This dataset with labels that are the outputs of a network.

        Args:
            classes: the names of the network's classes in the order of its outputs.

        Raises:
            UsageError: the classes are others, or stand in another order.
        """
        own = self.class_names
        if tuple(classes) != own and (own or len(classes) != self.num_classes):
            raise other_classes(self, classes)
        return self

    @abstractmethod
    def open(self, *, train: bool) -> Source:
        """All training images, augmented if `augment` says so, or all test images.

        Raises:
            UsageError: files are missing or damaged; it says where they were looked for.
        """

    def load(self, *, seed: int, train: bool = True, test: bool = True) -> Splits:
        """The splits; the same ``seed`` holds out the same images.

        Args:
            seed: the recipe's.
            train: whether to read the training images, for `Splits.train` and ``.validation``.
            test: whether to read the test images.

        Raises:
            UsageError: files are missing or damaged, or options do not fit them.
        """
        with told(f"dataset '{self.registered_name}'", "Name another folder: data.root."):
            learning = self.open(train=True) if train else None
            testing = self.open(train=False) if test else None
        learn, held_out = (None, None) if learning is None else self._split(learning, seed)
        return Splits(
            train=learn,
            validation=held_out,
            test=testing,
            num_classes=self.num_classes,
            channels=self.channels,
            image_size=self.image_size,
            class_names=self.class_names,
        )

    def _split(self, source: Source, seed: int) -> tuple[Source, Source | None]:
        import torch

        count = len(source)
        held = max(1, round(self.validation * count)) if self.validation else 0
        left = count - held
        if left < max(1, self.subset or 0):
            raise UsageError(
                f"dataset '{self.registered_name}': {self.subset or 1} training images were asked "
                f"for, but of {count} only {left} are left after validation: {self.validation}."
            )
        generator = torch.Generator().manual_seed(derive(seed, "split"))
        order = torch.randperm(count, generator=generator)
        kept = order[held:].sort().values[: self.subset]  # file order: subset means the first ones
        validation = source.select(order[:held].sort().values, augment=False) if held else None
        training = source if len(kept) == count else source.select(kept)
        return self._with_extra(training), validation

    def _with_extra(self, source: Source) -> Source:
        if self.extra is None:
            return source
        from robustprune.datasets.source import Mixed

        images = self.extra.load(
            channels=self.channels, size=self.image_size, num_classes=self.num_classes
        )
        return Mixed(source, source.beside(images), per_batch=self.extra.per_batch)


def other_classes(data: Dataset, classes: Sequence[str]) -> UsageError:
    """The error that says how a network's classes and a dataset's differ, and what to do."""
    names = data.class_names
    strange = [name for name in names if name not in classes]
    why = f": {few(strange)} not among them" if strange else ""
    return UsageError(
        f"the network's {len(classes):,} classes are {few(classes)}; those of dataset "
        f"'{data.registered_name}' are {few(names) or data.num_classes}{why}. If they mean the "
        "same, "
        "name the classes in the order of the network's outputs: as the folders are called with "
        "--classes, or in a recipe's data.classes. Otherwise take another dataset."
    )


def few(names: Sequence[str], *, most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
