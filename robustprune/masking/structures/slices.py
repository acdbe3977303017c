"""Single weights, and filters and channels, which can be taken out of a network for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from robustprune.masking.selection import Ends, Structure, summed
from robustprune.masking.structures import register

if TYPE_CHECKING:
    from torch import Tensor


@register("weight")
class Weight(Structure):
    """Each weight on its own: unstructured pruning, as HYDRA's."""


class _Slice(Structure):
    """All weights that share an index along one dimension."""

    dimension: ClassVar[int]

    def reduce(self, importance: Tensor) -> Tensor:
        """``(size of the dimension,)``."""
        return summed(importance, [d for d in range(importance.ndim) if d != self.dimension])

    def expand(self, entries: Tensor, weight: Tensor) -> Tensor:
        """Each slice's value, everywhere in it."""
        shape = [-1 if d == self.dimension else 1 for d in range(weight.ndim)]
        return entries.view(shape).expand_as(weight).contiguous()


@register("filter")
class Filter(_Slice):
    """Output filters: what makes one output channel of a convolution, or one of a linear layer.

    Layers that give the logits stay dense, as each of their filters is a class. Norm layers and
    biases stay too, so that a filter that is pruned still emits a constant.
    """

    dimension: ClassVar[int] = 0

    def stays_dense(self, layers: Mapping[str, Tensor], ends: Ends) -> set[str]:
        """The outputs, and layers of one filter."""
        return (ends.outputs & layers.keys()) | self._undivided(layers)


@register("channel")
class Channel(_Slice):
    """Input channels: all that a layer computes with one channel, or one feature, of its input.

    In a grouped convolution it is the channel at one place within *every* group, as groups remain
    equally large. Layers that see the images stay dense, and so do depthwise convolutions, whose
    groups have one channel.
    """

    dimension: ClassVar[int] = 1

    def stays_dense(self, layers: Mapping[str, Tensor], ends: Ends) -> set[str]:
        """The inputs, and layers of one channel."""
        return (ends.inputs & layers.keys()) | self._undivided(layers)
