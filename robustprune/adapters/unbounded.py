"""Errors of networks that auto-LiRPA cannot bound, with the layer named; its own name none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import torch
from torch import Tensor, nn

from robustprune.errors import UsageError, first_line


class RefusedError(NotImplementedError):
    """Bounds of an operator that may be none.

    Args:
        name: of the operator's node, as the tracer gives it: ``outer/outer.inner/17``.
        why: the reason.
        images: which images of a batch it is about, ``(n,)``, boolean; None if it is about all.
    """

    def __init__(self, name: str, why: str, images: Tensor | None = None) -> None:
        super().__init__(why)
        layers = name.split("/split/")[0].rpartition("/")[0]  # behind it: the parts it was cut into
        self.layer, self.images = layers.rpartition("/")[2], images


class OutsideDomainError(UsageError):
    """For some images of a batch an operator's interval reaches where its bounds are none.

    Attributes:
        images: which, ``(n,)``, boolean.
    """

    def __init__(self, message: str, images: Tensor) -> None:
        super().__init__(message)
        self.images = images


@contextmanager
def named(network: nn.Module, *, bound: str) -> Iterator[None]:
    """Turn what the library raises into an error that names the layer, and what to use instead.

    Args:
        network: the plain network.
        bound: the library's name of the bound.

    Raises:
        UsageError: as said. Running out of memory stays what it was.
    """
    try:
        with redirect_stdout(StringIO()):  # it prints advice for its own users
            yield
    except Exception as error:
        if is_memory(error):
            raise
        weaker = "" if bound == "IBP" else "the bound 'ibp', "
        message = (
            f"auto-LiRPA has no {bound} bound for {_where(network, error)} of this network "
            f"({first_line(error, most=200)}). Use {weaker}"
            "a network of convolutions, linear layers, BatchNorm, ReLU and average pooling, or "
            "judge it by attacks or smoothing, which take any network."
        )
        images = getattr(error, "images", None)
        if images is not None:
            raise OutsideDomainError(message, images) from error
        raise UsageError(message) from error


def is_memory(error: BaseException) -> bool:
    """True if an error says that there is not enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "alloc" in str(error) and "memory" in str(error)


def _where(network: nn.Module, error: Exception) -> str:
    """The layer that an error is about, in words."""
    if not isinstance(error, RefusedError):
        return "a function or an order of layers"
    if not error.layer:
        return "a function"
    layer = network.get_submodule(error.layer)
    inside = "a function in " if next(layer.children(), None) is not None else ""
    return f"{inside}layer '{error.layer} ({type(layer).__name__})'"
