"""Parts of a network that the kernels compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from robustprune.errors import UsageError
from robustprune.inference.graph import known_at, numbered
from robustprune.inference.recognition import Arrays, KnownOperation
from robustprune.kernels import Unsupported
from robustprune.kernels.operations import Array, Operation


class Runnable(Protocol):
    """The interface of `robustprune.kernels.Program`."""

    few: int

    def __call__(self, images: Array) -> Array: ...  # noqa: D102

    def forward(self, images: Array) -> tuple[Array, Any]: ...  # noqa: D102

    def backward(self, tape: Any, gradient: Array) -> Array: ...  # noqa: D102

    def set_arrays(self, arrays: Sequence[Arrays]) -> None: ...  # noqa: D102


Compile = Callable[[Sequence[Operation], tuple[int, ...]], Runnable]
"""From operations, and the shape of one image, to a program."""


class Segment(nn.Module):
    """A part of a network, computed by one program; differentiable in its input only, once.

    Copies share the program.

    Args:
        program: the part.
        before: shape of one image's input.
        after: shape of one image's output.
        parts: the operations that it computes.
    """

    def __init__(
        self,
        program: Runnable,
        before: tuple[int, ...],
        after: tuple[int, ...],
        parts: Sequence[KnownOperation] = (),
    ) -> None:
        super().__init__()
        self.program, self.before, self.after, self.parts = program, before, after, tuple(parts)

    def refresh(self) -> None:
        """Take over the tensors of the network as they are now."""
        self.program.set_arrays([part.renew() for part in self.parts])

    def forward(self, images: Tensor) -> Tensor:
        """``(n, *before)`` on the CPU, any n, to ``(n, *after)``, float32.

        Raises:
            UsageError: the shape of an image or the device is another.
        """
        if images.shape[1:] != self.before or images.device.type != "cpu":
            raise UsageError(
                f"these sparse kernels take values of shape (n, {', '.join(map(str, self.before))})"
                f" on the CPU; got {tuple(images.shape)} on {images.device}. Make another sparse "
                "network of images of this shape, or use the dense one."
            )
        images = images.float()
        if not len(images):
            nothing = images.flatten(1).sum(1)
            return nothing.view(0, *(1,) * len(self.after)).expand(0, *self.after)
        if images.requires_grad and torch.is_grad_enabled():
            output: Tensor = _Computed.apply(images, self.program)
            return output
        return torch.from_numpy(self.program(_array(images)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Segment:
        """Another module with the same program, which holds nothing that changes."""
        return Segment(self.program, self.before, self.after, self.parts)

    def extra_repr(self) -> str:
        """Shapes and layers."""
        layers = ", ".join(part.layer for part in self.parts if part.is_layer())
        return f"{self.before} -> {self.after}, layers: {layers}"


class _Computed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, program: Runnable) -> Tensor:
        ctx.program = program
        output, ctx.tape = program.forward(_array(images))
        return torch.from_numpy(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.program.backward(ctx.tape, _array(gradient))), None


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().contiguous().numpy()
    return np.ascontiguousarray(array)


def runs(
    graph: fx.GraphModule, sparse: Callable[[KnownOperation], bool]
) -> Iterator[list[fx.Node]]:
    """The longest runs of consecutive nodes that one program can compute, with a layer in each.

    All of a run's nodes are known operations. It reads one value and only its last node's value is
    read elsewhere; a run that would have more, such as one that ends within a residual block, is
    cut before. Operations that are left over stay torch's.

    Args:
        graph: see `robustprune.inference.graph.graph_of`.
        sparse: true for the operations that the kernels are to compute.
    """
    nodes, start = list(graph.graph.nodes), 0
    while start < len(nodes):
        stop = _longest(nodes, start, sparse)
        found = nodes[start:stop]
        if any(_known(node).is_layer() for node in found):
            yield found
            start = stop
        else:
            start += 1


def computable(node: fx.Node) -> KnownOperation | None:
    """The operation that a node is, if the kernels can compute it where it stands.

    They pad with zeros: so the maximum is that of numbers that are not below zero, and an average
    counts its padding.
    """
    known = known_at(node)
    if known is None or not any(known.operation.options.get("padding", [])):
        return known
    if known.operation.kind == "max_pool":
        before = known_at(node.all_input_nodes[0])
        return known if before is not None and before.operation.kind == "relu" else None
    return known if known.operation.options.get("count_include_pad", True) else None


def _longest(nodes: Sequence[fx.Node], start: int, sparse: Callable[[KnownOperation], bool]) -> int:
    """The last place up to which nodes make a run; ``start`` if there is none."""
    read: set[fx.Node] = set()
    waiting: dict[fx.Node, int] = {}  # readers of a value of the run that are still to come
    stop = start
    for place, node in enumerate(nodes[start:], start):
        known = computable(node)
        if known is None or not sparse(known):
            break
        for operand in node.all_input_nodes:
            if operand in waiting:
                waiting[operand] -= 1
            else:
                read.add(operand)
        waiting[node] = len(node.users)
        if len(read) > 1:
            break
        if [one for one, readers in waiting.items() if readers] in ([node], []):
            stop = place + 1
    return stop


def _known(node: fx.Node) -> KnownOperation:
    known = known_at(node)
    assert known is not None
    return known


def put_segments(
    graph: fx.GraphModule,
    sparse: Callable[[KnownOperation], bool],
    program: Compile,
) -> None:
    """Put a `Segment` in the place of each of the graph's `runs` that the kernels support.

    Args:
        graph: is changed.
        sparse: as there.
        program: compiles a segment.
    """
    for number, nodes in enumerate(list(runs(graph, sparse))):
        start = nodes[0].all_input_nodes[0]
        before = start.meta["shape"]
        parts = [_known(node) for node in nodes]
        try:
            compiled = program(numbered(nodes, start), before)
        except Unsupported:
            continue
        segment = Segment(compiled, before, nodes[-1].meta["shape"], parts)
        graph.add_submodule(f"segment_{number}", segment)
        with graph.graph.inserting_before(nodes[0]):
            new = graph.graph.call_module(f"segment_{number}", (start,))
        new.meta["shape"] = segment.after
        nodes[-1].replace_all_uses_with(new)
        for node in reversed(nodes):
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
