"""Which images of a batch a process has, where several processes share each batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The images first, first + every, … of a batch.

    Attributes:
        total: images of the whole batch, on all processes together.
        first: the first of those that are here, from 0.
        every: from each to the next: the number of processes.
    """

    total: int
    first: int = 0
    every: int = 1

    def __len__(self) -> int:
        return len(range(self.first, self.total, self.every))

    @property
    def place(self) -> slice:
        """What picks the images that are here out of the whole batch."""
        return slice(self.first, None, self.every)

    def here(self, chosen: Tensor) -> Tensor:
        """Of some images of the whole batch, ``(k,)``, int64, those here, numbered as here."""
        mine = chosen[chosen % self.every == self.first]
        return (mine - self.first) // self.every

    def cut(self, parts: int) -> list[tuple[slice, Rows]]:
        """The batch cut into parts of equal size, as nearly as can be.

        Returns:
            For each part, which of the images here are in it, and which of the part's they are.
        """
        bounds = [number * self.total // parts for number in range(parts + 1)]
        return [self._within(low, high) for low, high in itertools.pairwise(bounds)]

    def _within(self, low: int, high: int) -> tuple[slice, Rows]:
        start, stop = (-((self.first - bound) // self.every) for bound in (low, high))
        first = (self.first - low) % self.every
        return slice(start, stop), Rows(high - low, first, self.every)


_current: ContextVar[Rows | None] = ContextVar("rows", default=None)


def rows_of(images: Tensor) -> Rows:
    """Which images of the training step's batch ``images`` are; all of them in a single process.

    For objectives to which the other images matter: those that choose some, or that keep something
    for each place in the batch.
    """
    return _current.get() or Rows(len(images))


@contextmanager
def sharing(rows: Rows) -> Iterator[None]:
    """Say, for a block, which images of a batch this process has."""
    token = _current.set(rows)
    try:
        yield
    finally:
        _current.reset(token)
