"""One batch on several processes: each draws, and normalises, as if it had all of it.

Objectives and attacks draw noise of their images' shape wherever they like, libraries' too. So that
a network does not depend on the number of processes, each process draws for the whole batch, from
the same state, and keeps the rows of its own images. And a BatchNorm that learns takes the
statistics of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from robustprune.rows import Rows
from robustprune.training.synchronised import batch_norm

Handler = Callable[["WholeBatch", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class WholeBatch(TorchFunctionMode):
    """What random functions of torch, and BatchNorm, do while a process computes its rows.

    A draw belongs to the batch if its shape ends in that of the images, or begins with their
    number. All others are left alone: they are the same on every process, which starts each epoch
    in the same random state. So are the draws inside torch's attention, which are noted.

    Args:
        shape: of the images here, ``(n, channels, height, width)``.
        rows: which of the batch they are.
        synchronise: whether BatchNorm takes the whole batch's statistics.
        foreign: takes the names of functions that drew for this process's images alone.
    """

    def __init__(
        self, shape: Sequence[int], rows: Rows, *, synchronise: bool, foreign: set[str]
    ) -> None:
        super().__init__()
        self._shape, self._rows = tuple(shape), rows
        self.synchronise, self.foreign = synchronise, foreign

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        handler = _HANDLERS.get(func)
        if handler is None:
            return func(*args, **(kwargs or {}))
        return handler(self, func, args, kwargs or {})

    def axis(self, shape: Sequence[int]) -> int | None:
        """Which dimension of a tensor counts the images; None if none does."""
        shape, n = tuple(shape), len(self._shape)
        if shape[-n:] == self._shape:
            return len(shape) - n
        return 0 if shape[:1] == self._shape[:1] else None

    def widened(self, shape: Sequence[int], axis: int) -> list[int]:
        """The shape with as many images as the whole batch has."""
        return [*shape[:axis], self._rows.total, *shape[axis + 1 :]]

    def whole(self, like: Tensor, axis: int) -> Tensor:
        """An empty tensor for the whole batch, laid out in memory as ``like`` is."""
        shape = self.widened(like.shape, axis)
        if axis > 0 or like.stride(0) != like[0].numel():  # expanded, or transposed
            return like.new_empty(shape)
        return like.new_empty(0).new_empty_strided(shape, like.stride())

    def embedded(self, x: Tensor, axis: int) -> Tensor:
        """Zeros for the whole batch, with ``x`` in the rows of the images here."""
        whole = self.whole(x, axis).zero_()
        whole[(slice(None),) * axis + (self._rows.place,)] = x
        return whole

    def mine(self, whole: Tensor, axis: int) -> Tensor:
        """The rows of the images here."""
        return whole[(slice(None),) * axis + (self._rows.place,)]


def _in_place(mode: WholeBatch, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``x.uniform_(…)`` and the like."""
    axis = mode.axis(args[0].shape)
    if axis is None:
        return func(*args, **kwargs)
    with torch.no_grad():
        drawn = func(mode.whole(args[0], axis), *args[1:], **kwargs)
    return args[0].copy_(mode.mine(drawn, axis))


def _like(mode: WholeBatch, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``torch.randn_like(x)`` and the like."""
    axis = mode.axis(args[0].shape)
    if axis is None:
        return func(*args, **kwargs)
    leaf = kwargs.pop("requires_grad", False)
    drawn = func(mode.whole(args[0], axis), *args[1:], **kwargs)
    mine = torch.empty_like(args[0], dtype=drawn.dtype).copy_(mode.mine(drawn, axis))
    return mine.requires_grad_(leaf)


def _of_tensors(mode: WholeBatch, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``torch.bernoulli(p)``, ``torch.normal(mean, std)`` and the like, element by element."""
    shapes = [value.shape for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    axes = {mode.axis(shape) for shape in shapes if shape}
    if len(axes) != 1 or (axis := axes.pop()) is None:
        return func(*args, **kwargs)

    def widened(value: Any) -> Any:
        batched = isinstance(value, Tensor) and value.dim()
        return mode.embedded(value, axis) if batched else value

    wide = [widened(value) for value in args]
    return mode.mine(func(*wide, **{k: widened(v) for k, v in kwargs.items()}), axis)


def _attention(mode: WholeBatch, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Attention of torch's, which drops out where no mode of ours can see it."""
    at = _DROPOUT[func]
    rate = args[at] if len(args) > at else kwargs.get("dropout_p", 0.0)
    if rate > 0 and kwargs.get("training", True):
        mode.foreign.add(func.__name__)
    return func(*args, **kwargs)


def _sized(mode: WholeBatch, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``torch.randn(n, c, h, w)`` and the like, whose last positional arguments are the size."""
    given = "size" in kwargs
    size = kwargs["size"] if given else args[-1] if isinstance(args[-1], Sequence) else args
    if any(isinstance(length, Tensor | float) for length in size):  # torch.normal(mean, std)
        return _of_tensors(mode, func, args, kwargs)
    axis = mode.axis(size)
    if axis is None:
        return func(*args, **kwargs)
    leaf = kwargs.pop("requires_grad", False)
    wide = mode.widened(size, axis)
    if given:
        drawn = func(*args, **{**kwargs, "size": wide})
    else:
        drawn = func(*(args[:-1] if size is not args else ()), wide, **kwargs)
    mine = mode.mine(drawn, axis).clone(memory_format=torch.contiguous_format)
    return mine.requires_grad_(leaf)


def _dropout(mode: WholeBatch, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``F.dropout(x, …)`` and the like: what the whole batch's ones become, times x."""
    x = args[0] if args else kwargs.pop("input")
    axis = mode.axis(x.shape)
    if axis is None:
        return func(x, *args[1:], **kwargs)
    with torch.no_grad():
        factors = func(mode.whole(x, axis).fill_(1), *args[1:], **kwargs)
    return x * mode.mine(factors, axis)


def _batch_norm(mode: WholeBatch, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return batch_norm(*args, **kwargs) if mode.synchronise else func(*args, **kwargs)


_IN_PLACE = (
    Tensor.uniform_,
    Tensor.normal_,
    Tensor.bernoulli_,
    Tensor.random_,
    Tensor.exponential_,
    Tensor.log_normal_,
    Tensor.cauchy_,
    Tensor.geometric_,
)
_DROPOUT: dict[Callable[..., Any], int] = {
    F.scaled_dot_product_attention: 4,
    F.multi_head_attention_forward: 10,
}
"""The place of each one's rate of dropout among its arguments."""
_HANDLERS: dict[Callable[..., Any], Handler] = {
    **dict.fromkeys(_IN_PLACE, _in_place),
    **dict.fromkeys((torch.randn_like, torch.rand_like, torch.randint_like), _like),
    **dict.fromkeys((torch.randn, torch.rand, torch.randint, torch.normal), _sized),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _dropout),
    **dict.fromkeys((torch.bernoulli, F.alpha_dropout, F.feature_alpha_dropout), _of_tensors),
    **dict.fromkeys(_DROPOUT, _attention),
    F.batch_norm: _batch_norm,
}
