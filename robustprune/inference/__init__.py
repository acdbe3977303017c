"""Pruned networks on the CPU, with what gains by it computed by the sparse kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustprune import kernels
from robustprune.errors import UsageError
from robustprune.inference.choices import CHANNELS_LAST, DENSE, SPARSE, Choices, build, choose
from robustprune.inference.graph import UntraceableError, graph_of, operations_of, unknown_calls
from robustprune.inference.recognition import KnownOperation
from robustprune.inference.segment import Segment
from robustprune.inference.timing import this_table
from robustprune.messages import shown
from robustprune.unparametrize import plain_copy

__all__ = ["Choices", "SparseNetwork", "operations_of", "sparse"]


class SparseNetwork(nn.Module):
    """A network in eval mode of which the kernels compute a part; differentiable in its input.

    Args:
        graph: the network, with a `robustprune.inference.segment.Segment` for each such part.
        choices: what was chosen.
    """

    def __init__(self, graph: fx.GraphModule, choices: Choices) -> None:
        super().__init__()
        self.graph, self.choices = graph, dict(choices)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """``(n, channels, height, width)`` in [0, 1] on the CPU, any n, to the logits."""
        logits: Tensor = self.graph(images)
        return logits

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the tensors of the network that this one was made of, as they are now."""
        for module in self.graph.modules():
            if isinstance(module, Segment):
                module.refresh()
            elif isinstance(module, KnownOperation):
                for name, array in module.renew().items():
                    module.get_buffer(name).copy_(torch.from_numpy(array))

    def train(self, mode: bool = True) -> SparseNetwork:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)


def sparse(
    model: nn.Module,
    images: Tensor,
    *,
    threads: int | None = None,
    choices: Choices | None = None,
    tell: Callable[[str], object] | None = None,
) -> nn.Module:
    """Copy a pruned network, with its layers computed by sparse kernels where these are faster.

    It is a copy of ``model`` as it is now, in eval mode and without parametrizations. Logits and
    gradients are those of ``model`` to rounding; gradients reach the images only. Where nothing
    gains, or this machine has no kernels, the copy is an ordinary dense network.

    Args:
        model: a network that may be masked, on the CPU.
        images: ``(n, channels, height, width)`` in [0, 1], an example of the batches to come. The
            result takes any number of images of this height and width; n is what it is made fast
            for.
        threads: of the kernels; as many as torch has, if not given.
        choices: those of an earlier result: nothing is measured then, and the same is computed.
        tell: is called with a line if there are no kernels, or if measuring takes over a few
            seconds; a warning, if not given.

    Returns:
        The network. Its attribute ``choices`` says what was chosen and why, and can be written as
        JSON; it differs between machines, and with it the logits' last digits.

    Raises:
        UsageError: images or network are not on the CPU or not in float32, there are no images, or
            ``choices`` are of another network.
    """
    _check(model, images)

    def warn(line: str) -> None:
        warnings.warn(line, stacklevel=4)  # whoever calls `sparse`

    return sparse_with(
        kernels.Program,
        plain_copy(model),
        images,
        threads=threads or torch.get_num_threads(),
        choices=choices,
        tell=tell or warn,
    )


def sparse_with(
    program: Callable[..., Any],
    dense: nn.Module,
    images: Tensor,
    *,
    threads: int,
    choices: Choices | None,
    tell: Callable[[str], object],
) -> nn.Module:
    """Do as `sparse` does, with another class of programs.

    Args:
        program: has the interface of `robustprune.kernels.Program`.
        dense: a plain copy, which is used up.
        images: as there.
        threads: as there.
        choices: as there.
        tell: as there.
    """
    if choices is not None and choices.get("network") not in (SPARSE, DENSE, CHANNELS_LAST):
        raise UsageError(f"{shown(choices)} are no choices: take an earlier result's attribute.")
    if choices is not None and choices["network"] != SPARSE:
        return _with_choices(dense, choices)
    if reason := kernels.available():
        tell(f"the network stays dense, for this machine has no sparse kernels: {reason}")
        return _with_choices(dense, {"network": DENSE, "reason": reason})
    try:
        graph = graph_of(dense, images)
    except UntraceableError as error:
        return _with_choices(dense, {"network": DENSE, "reason": str(error)})
    if choices is not None:
        compiled = partial(program, threads=threads, few=choices["few"])
        build(graph, choices["layers"], program=compiled)
        return SparseNetwork(graph, choices)
    unknown = unknown_calls(graph)
    chosen = choose(
        dense,
        graph,
        images,
        threads=threads,
        table=this_table(),
        program=program,
        tell=tell,
    )
    chosen["torch"] = unknown[:20]
    if chosen["network"] == SPARSE:
        return SparseNetwork(graph, chosen)
    return _with_choices(dense, chosen)


def _with_choices(dense: nn.Module, choices: Choices) -> nn.Module:
    if choices["network"] == CHANNELS_LAST:
        dense = dense.to(memory_format=torch.channels_last)
    dense.__dict__["choices"] = dict(choices)
    return dense


def _check(model: nn.Module, images: Tensor) -> None:
    if not len(images):
        raise UsageError("a sparse network needs an example of its images; got none.")
    tensors = [("images", images), *model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if tensor.device.type != "cpu":
            raise UsageError(
                f"sparse kernels are for the CPU; '{name}' is on {tensor.device}. Move the network "
                "and its images there, or use the dense network."
            )
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UsageError(
                f"sparse kernels compute in float32; '{name}' is {tensor.dtype}. Convert the "
                "network and its images with .float()."
            )
