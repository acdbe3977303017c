"""Bounds one after the other: the dear ones only for what the cheap ones leave undecided."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustprune.adapters import bounds
from robustprune.adapters.bounds import Bounds, Method, certified
from robustprune.adapters.unbounded import OutsideDomainError, is_memory
from robustprune.errors import UsageError
from robustprune.evaluators.criteria import correct

METHODS: tuple[Method, ...] = tuple(bounds.METHODS)
"""The bounds, the cheapest and loosest first."""

UNDECIDED, LEFT_OUT, MISCLASSIFIED = -1, -2, -3
"""Answers of `Cascade.settle` for images that no bound verifies."""

_GIB = 2**30
_COPIES = 12
"""Copies of a matrix, or of all intervals, that auto-LiRPA holds at once: seen were 4 to 12 on
perceptrons, our CNNs and deeper ones; up to 20 for CROWN-IBP on deep ones, which takes little."""


class Cascade:
    """Verifies a network's images within the limits of one evaluation, which begins now.

    Args:
        methods: the bounds, the cheapest first. That one always runs.
        eps: radius of the ℓ∞ ball; [0, 1] pixel range.
        iterations: of ``alpha_crown``.
        seconds: for the whole evaluation; after them only the first bound runs.
        memory: in GiB, by the estimate of `bytes_per_image`: so many images are bounded at once,
            and a bound that takes more for a single one is left out.

    Attributes:
        left_out: for how many images a bound was left out, by the bound and the reason.
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
        self.left_out: Counter[tuple[Method, str]] = Counter()

    @torch.no_grad()
    def settle(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Say which bound verifies each image: ``(n,)``, int64.

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

        def leave_out(some: Tensor, why: str) -> None:
            by[some] = LEFT_OUT
            self.left_out[method, why] += len(some)

        graph = self._graph(model, images)
        if why := self._obstacle(method):
            leave_out(left, why)
            return left[:0]
        chunk, rest = left.tensor_split([self._sizes.get(method, len(left))])
        options: Any = {"eps": self._eps, "method": method, "iterations": self._iterations}
        try:
            margins = graph.margins(model, images[chunk], labels[chunk], **options)
        except OutsideDomainError as error:
            outside = error.images.to(chunk.device)
            leave_out(chunk[outside], str(error).rstrip("."))
            return torch.cat([chunk[~outside], rest])
        except UsageError as error:
            self._useless[method] = str(error).rstrip(".")
            if len(self._useless) == len(self._methods):
                raise
            return left
        except Exception as error:
            if not is_memory(error):
                raise
            self._bounds = None  # it holds what it had computed, and may be stuck half-way
            if len(chunk) > 1:
                self._sizes[method] = len(chunk) // 2
                return left
            leave_out(chunk, "the memory was too small for one of them alone")
            return rest
        by[chunk[certified(margins, model(images[chunk]))]] = METHODS.index(method)
        return rest

    def _obstacle(self, method: Method) -> str:
        """The reason why a bound is not to be tried now; empty if there is none."""
        if method in self._useless:
            return self._useless[method]
        first = next(name for name in self._methods if name not in self._useless)
        late = self._seconds is not None and monotonic() - self._began >= self._seconds
        return f"the {self._seconds:g} seconds were over" if late and method != first else ""

    def _graph(self, model: nn.Module, images: Tensor) -> Bounds:
        """The network's bounds, built when they are first needed."""
        known = self._network is not None and self._network() is model
        if self._bounds is None or not known or not self._bounds.fits(images):
            self._bounds, self._network = Bounds(model, images), weakref.ref(model)
        if known:
            return self._bounds
        self._sizes, self._useless = {}, {}
        if (memory := self._memory) is not None:
            needs = bytes_per_image(model, images, classes=self._bounds.num_classes)
            for number, method in enumerate(self._methods):
                gib = needs[method] / _GIB
                self._sizes[method] = max(int(memory / gib), 1)
                if gib > memory and number > 0:
                    why = f"it takes about {gib:.2g} GiB an image, and the limit is {memory:g}"
                    self._useless[method] = why
        return self._bounds


class Layer(NamedTuple):
    """A convolution, a pooling or a linear layer. Entries are those of one image.

    Attributes:
        inputs: entries that it takes.
        outputs: entries that it gives.
        channels: of its input.
        kernel: side of what one output depends on; infinite for a linear layer.
        stride: between two such.
    """

    inputs: int
    outputs: int
    channels: int
    kernel: float
    stride: int


def bytes_per_image(model: nn.Module, images: Tensor, *, classes: int) -> dict[Method, int]:
    """Estimate the memory that each bound takes for one image, every neuron being undecided.

    All bounds keep an interval for each neuron. Linear ones go backwards through the network with a
    matrix besides: a row for each neuron that is bounded, a column for each entry of an earlier
    layer that it depends on. CROWN-IBP does so from the margins, CROWN from each hidden layer too.

    Args:
        model: in eval mode.
        images: ``(n, channels, height, width)``; the first is passed through.
        classes: the number of logits.
    """
    layers = layers_of(model, images[:1])
    sizes = [layer.inputs for layer in layers] or [images[0].numel()]
    margins = (classes - 1) * max(sizes)
    hidden = [layers[n].outputs * reach(layers[: n + 1]) for n in range(len(layers) - 1)]
    matrix = max([margins, *hidden])
    entries = {"ibp": 0, "crown_ibp": margins, "crown": matrix, "alpha_crown": matrix}
    factor = _COPIES * images.element_size()
    return {method: factor * (sum(sizes) + entries[method]) for method in METHODS}


def reach(layers: list[Layer]) -> int:
    """The most entries of an earlier layer's input that one output of the last depends on.

    Branches count as if they stood one after the other, which is too much rather than too little.
    """
    side, most = 1.0, 0
    for layer in reversed(layers):
        side = (side - 1) * layer.stride + layer.kernel
        most = max(most, int(min(layer.inputs, side**2 * layer.channels)))
    return most


def layers_of(model: nn.Module, image: Tensor) -> list[Layer]:
    """The layers that one image, ``(1, channels, height, width)``, passes, in their order."""
    layers: list[Layer] = []

    def note(module: nn.Module, args: tuple[Tensor], output: Any) -> None:
        shape = args[0].shape[1:]
        kernel = _largest(module.kernel_size) if hasattr(module, "kernel_size") else torch.inf
        stride = _largest(getattr(module, "stride", 1))
        layers.append(Layer(shape.numel(), output[0].numel(), shape[0], kernel, stride))

    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            if hasattr(module, "kernel_size") or isinstance(module, nn.Linear):
                hooks.callback(module.register_forward_hook(note).remove)
        model(image)
    return layers


def _largest(sides: Any) -> int:
    return max(sides) if isinstance(sides, tuple) else int(sides)
