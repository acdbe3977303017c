"""Bounds one after the other: the dear ones only for what the cheap ones leave undecided."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustprune.adapters.bounds import Bounds, certified
from robustprune.adapters.unbounded import OutsideDomainError, is_memory
from robustprune.errors import UsageError
from robustprune.evaluators.attacks import correct
from robustprune.evaluators.bounds import METHODS
from robustprune.evaluators.memory import bytes_an_image
from robustprune.evaluators.omissions import Omission, Omissions

if TYPE_CHECKING:
    from robustprune.evaluators.bounds import Method

UNDECIDED, LEFT_OUT, MISCLASSIFIED = -1, -2, -3
"""What `Cascade.settle` says of images that no bound verifies."""

_GIB = 2**30


class Cascade:
    """Verifies a network's images within the limits of one evaluation, which begins now.

    Args:
        methods: the bounds, the cheapest first. That one always runs.
        eps: radius of the ℓ∞ ball; [0, 1] pixel range.
        iterations: of ``alpha_crown``.
        seconds: for the whole evaluation; after them only the first bound runs.
        memory: in GiB, what a bound may take by the estimate of `bytes_an_image`: so many images
            are bounded at once, and a bound that takes more for a single one is left out.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        *,
        eps: float,
        iterations: int = 20,
        seconds: float | None = None,
        memory: float | None = None,
    ) -> None:
        self._methods, self._eps, self._iterations = tuple(methods), eps, iterations
        self._seconds, self._memory = seconds, memory
        self._began = monotonic()
        self._bounds: Bounds | None = None
        self._network: weakref.ref[nn.Module] | None = None
        self._sizes: dict[Method, int] = {}  # images at once, where it is not all of them
        self._useless: dict[Method, str] = {}  # bounds that the network cannot have, and why
        self._left_out = Omissions()

    @torch.no_grad()
    def settle(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """What verifies each image, ``(n,)``, int64.

        Args:
            model: in eval mode.
            images: ``(n, channels, height, width)`` in [0, 1].
            labels: ``(n,)``, int64.

        Returns:
            The number, in `METHODS`, of the bound that verifies the image. ``UNDECIDED``: none of
            them does. ``LEFT_OUT``: none does, but one at least was not tried. ``MISCLASSIFIED``:
            there is nothing to verify, and nothing was tried.

        Raises:
            UsageError: auto-LiRPA has none of these bounds for this network.
        """
        by = torch.where(correct(model, images, labels), UNDECIDED, MISCLASSIFIED)
        for method in self._methods:
            (left,) = ((by == UNDECIDED) | (by == LEFT_OUT)).nonzero(as_tuple=True)
            while len(left):
                left = self._advance(method, model, images, labels, by=by, left=left)
        return by

    def omissions(self) -> Omissions:
        """Which bounds were left out since this was asked last."""
        omissions, self._left_out = self._left_out, Omissions()
        return omissions

    def _advance(
        self,
        method: Method,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        by: Tensor,
        left: Tensor,
    ) -> Tensor:
        """Try a bound on the first images of ``left``, note in ``by``, and give the others."""
        bounds = self._graph(model, images)
        if why := self._obstacle(method):
            self._leave_out(method, why, by=by, left=left)
            return left[:0]
        chunk, rest = left.tensor_split([self._sizes.get(method, len(left))])
        try:
            proved = self._prove(bounds, method, model, images[chunk], labels[chunk])
        except OutsideDomainError as error:
            outside = error.images.to(chunk.device)
            self._leave_out(method, str(error).rstrip("."), by=by, left=chunk[outside])
            return torch.cat([chunk[~outside], rest])
        except UsageError as error:
            self._useless[method] = str(error).rstrip(".")
            if len(self._useless) == len(self._methods):
                raise
            return left
        if proved is not None:
            by[chunk[proved]] = METHODS.index(method)
            return rest
        self._bounds = None  # it holds what it had computed, and may be stuck half-way
        if len(chunk) > 1:
            self._sizes[method] = len(chunk) // 2
            return left
        self._leave_out(method, "the memory was too small for one of them alone", by=by, left=chunk)
        return rest

    def _prove(
        self, bounds: Bounds, method: Method, model: nn.Module, images: Tensor, labels: Tensor
    ) -> Tensor | None:
        """Which images a bound verifies; None if the memory is too small for so many."""
        options = {"eps": self._eps, "method": method, "iterations": self._iterations}
        try:
            margins = bounds.margins(model, images, labels, **options)  # type: ignore[arg-type]
        except Exception as error:
            if not is_memory(error):
                raise
            return None
        return certified(margins, model(images))

    def _obstacle(self, method: Method) -> str:
        """Why a bound is not to be tried now; empty if it is."""
        if method in self._useless:
            return self._useless[method]
        first = next(name for name in self._methods if name not in self._useless)
        late = self._seconds is not None and monotonic() - self._began >= self._seconds
        return f"the {self._seconds:g} seconds were over" if late and method != first else ""

    def _leave_out(self, method: Method, why: str, *, by: Tensor, left: Tensor) -> None:
        by[left] = LEFT_OUT
        self._left_out[Omission(method, why)] += len(left)

    def _graph(self, model: nn.Module, images: Tensor) -> Bounds:
        """The network's bounds, built when they are first needed."""
        known = self._network is not None and self._network() is model
        if self._bounds is None or not known or not self._bounds.fits(images):
            self._bounds, self._network = Bounds(model, images), weakref.ref(model)
            if not known:
                self._measure(model, images, classes=self._bounds.num_classes)
        return self._bounds

    def _measure(self, model: nn.Module, images: Tensor, *, classes: int) -> None:
        """Find how many images each bound takes at once."""
        self._sizes, self._useless = {}, {}
        if self._memory is None:
            return
        needs = bytes_an_image(model, images, classes=classes)
        for number, method in enumerate(self._methods):
            size = int(self._memory * _GIB / needs[method])
            self._sizes[method] = max(size, 1)
            if size < 1 and number > 0:
                self._useless[method] = (
                    f"it takes about {needs[method] / _GIB:.2g} GiB an image, and the limit is "
                    f"{self._memory:g}"
                )
