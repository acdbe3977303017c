"""Which layer it is that auto-LiRPA cannot bound; its own errors name none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.adapters.operators import RefusedError, graph_of
from robustprune.errors import UsageError, first_line


class OutsideDomainError(UsageError):
    """For some images of a batch an operator's interval reaches where its bounds are none.

    Attributes:
        images: which, ``(n,)``, boolean.
    """

    def __init__(self, message: str, images: Tensor) -> None:
        super().__init__(message)
        self.images = images


@contextmanager
def named(library: ModuleType, twin: nn.Module, image: Tensor, *, bound: str) -> Iterator[None]:
    """Turn what the library raises into an error that names the layer, and what to use instead.

    Args:
        library: auto-LiRPA.
        twin: the plain network, in eval mode.
        image: ``(1, channels, height, width)``.
        bound: the library's name of the bound.

    Raises:
        UsageError: as said. Running out of memory stays what it was.
    """
    try:
        with redirect_stdout(StringIO()):  # it prints advice for its own users
            yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if is_memory(error):
            raise
        what = _where(library, twin, image, bound, error)
        reason = first_line(error, most=200)
        weaker = "" if bound == "IBP" else "the bound 'ibp', "
        message = (
            f"auto-LiRPA has no {bound} bound for {what} of this network ({reason}). "
            f"Use {weaker}"
            "a network of convolutions, linear layers, BatchNorm, ReLU and average pooling, or "
            "judge it by attacks or smoothing, which take any network."
        )
        images = getattr(error, "images", None)
        if images is not None:
            raise OutsideDomainError(message, images) from error
        raise UsageError(message) from error


def is_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "alloc" in str(error) and "memory" in str(error)


def _where(
    library: ModuleType, twin: nn.Module, image: Tensor, bound: str, error: Exception
) -> str:
    """The layer that an error is about, in words."""
    if isinstance(error, RefusedError):
        layer = twin.get_submodule(error.layer)
        inside = "a function in " if next(layer.children(), None) is not None else ""
        words = f"{inside}layer '{error.layer} ({type(layer).__name__})'"
        return words if error.layer else "a function"
    first = _first_unbounded(library, twin, image, bound, error)
    return f"layer '{first}'" if first else "a function or an order of layers"


def _first_unbounded(
    library: ModuleType, twin: nn.Module, image: Tensor, bound: str, error: Exception
) -> str | None:
    """The first layer, in the order of computation, that fails so on its own."""
    tried: set[Any] = set()
    for name, layer, inputs in _calls(twin, image):
        kind = repr(layer)
        if kind in tried or not inputs.is_floating_point():
            continue
        tried.add(kind)
        own = _failure(library, layer, inputs, bound)
        if own is not None and first_line(own) == first_line(error):
            return f"{name} ({type(layer).__name__})"
    return None


def _calls(twin: nn.Module, image: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """The layers without children that have one input, with that input, up to one that fails."""
    calls: list[tuple[str, nn.Module, Tensor]] = []
    hooks = []
    for name, layer in twin.named_modules():
        if next(layer.children(), None) is None:

            def note(layer: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                if len(inputs) == 1 and isinstance(inputs[0], Tensor):
                    calls.append((name, layer, inputs[0].detach()))

            hooks.append(layer.register_forward_pre_hook(note))
    try:
        with torch.no_grad(), suppress(Exception):  # what failed is what is looked for
            twin(image)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _failure(library: ModuleType, layer: nn.Module, inputs: Tensor, bound: str) -> Exception | None:
    ball = library.PerturbationLpNorm(norm=float("inf"), eps=1e-3)
    try:
        graph = graph_of(nn.Sequential(layer).eval(), inputs)  # or it would train `layer`
        graph.compute_bounds(
            x=(library.BoundedTensor(inputs, ball),),
            method=bound.replace("-Optimized", ""),  # that needs something to optimise
            bound_upper=False,
        )
    except Exception as error:
        return error
    return None
