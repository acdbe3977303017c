"""A network as a graph of the kernels' operations and of calls that stay torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from robustprune.errors import UsageError, first_line
from robustprune.inference.recognition import (
    Arrays,
    KnownOperation,
    UnknownError,
    Value,
    changes_its_input,
    recognised,
    shape_after,
)
from robustprune.kernels.operations import Array, Operation

AGREE = 1e-4
"""Largest difference between the graph's output and the network's, as a share of its scale."""


class UntraceableError(Exception):
    """There is no graph of the network, or none that computes the same."""


def graph_of(network: nn.Module, images: Tensor) -> fx.GraphModule:
    """The network's graph, in which every operation that the kernels know is a `KnownOperation`.

    Norms are folded into the layers before them. What a known operation reads and makes has
    ``meta["shape"]``, of one image's value, without the axis of the images. The graph
    computes what the network does, and is for images of this height and width only.

    Args:
        network: plain, in eval mode (see `robustprune.unparametrize.plain_copy`).
        images: ``(n, …)``, n at least 1, on the CPU.

    Raises:
        UntraceableError: there is none.
    """
    few = torch.cat([images[:3]] * 3)[:3]
    reasons, found = [], list[fx.GraphModule]()
    with torch.no_grad():
        expected = network(few[:2].clone())
        for trace in (_traced, _exported):
            try:
                graph = trace(network, few)
                _recognise(graph, few)
                _fold(graph)
                graph.recompile()
                _compare(graph(few[:2].clone()), expected)
            except Exception as error:  # of whatever a network's own code raises
                reasons.append(f"{trace.__name__[1:]}: {first_line(error)}")
                continue
            found.append(graph)
            if not _hides_layers(graph):
                break
    if not found:
        raise UntraceableError("; ".join(reasons))
    return max(found, key=lambda graph: len(layers_of(graph)))


def layers_of(graph: fx.GraphModule) -> list[str]:
    """Names of the layers that are known operations, in order."""
    return [known.layer for _, known in known_operations(graph) if known.is_layer()]


def known_operations(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, KnownOperation]]:
    """The nodes that are known operations, in order."""
    for node in graph.graph.nodes:
        if (module := known_at(node)) is not None:
            yield node, module


def known_at(node: fx.Node) -> KnownOperation | None:
    """The operation that a node is, if it is one that the kernels know."""
    if node.op != "call_module":
        return None
    module = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
    return module if isinstance(module, KnownOperation) else None


def unknown_calls(graph: fx.GraphModule) -> list[str]:
    """The calls that stay torch's: each a layer's name or that of a function."""
    calls = [node for node in graph.graph.nodes if node.op.startswith("call_")]
    return [called(node) for node in calls if known_at(node) is None]


def _hides_layers(graph: fx.GraphModule) -> bool:
    """True if a module that is called as it is has layers within it."""
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    parts = [part for name in calls for part in list(graph.get_submodule(name).modules())[1:]]
    return any(isinstance(part, nn.Conv2d | nn.Linear) for part in parts)


def called(node: fx.Node) -> str:
    """The name of the layer, function or method that a node calls."""
    name = node.target if isinstance(node.target, str) else node.name
    return name.removeprefix("network.")


def _layer(node: fx.Node) -> str:
    """The name of the layer that a node calls, or is within."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).removeprefix("network.") if stack else called(node)


def operations_of(network: nn.Module, images: Tensor) -> list[Operation]:
    """A whole network as operations, without any call of torch's.

    Args:
        network: plain, in eval mode.
        images: ``(n, …)``, n at least 1, on the CPU.

    Raises:
        UsageError: the kernels do not know all of it; names what they do not know.
    """
    try:
        graph = graph_of(network, images)
    except UntraceableError as error:
        raise UsageError(f"the network has no graph of known operations: {error}.") from error
    if unknown := unknown_calls(graph):
        raise UsageError(
            f"the kernels do not know {', '.join(unknown[:5])}"
            f"{' and others' if len(unknown) > 5 else ''} of this network."
        )
    nodes = [node for node, _ in known_operations(graph)]
    (result,) = next(node for node in graph.graph.nodes if node.op == "output").args
    if not nodes or result is not nodes[-1]:
        raise UsageError("the network's output is not the value of its last operation.")
    (start,) = (node for node in graph.graph.nodes if node.op == "placeholder")
    return numbered(nodes, start)


def numbered(nodes: list[fx.Node], start: fx.Node) -> list[Operation]:
    """The operations of known nodes, with numbers of the values that they read.

    Args:
        nodes: in order.
        start: the one whose value is value 0.
    """
    numbers = {node: number for number, node in enumerate([start, *nodes])}
    operations = []
    for node in nodes:
        module = known_at(node)
        assert module is not None
        inputs = tuple(numbers[operand] for operand in node.args)  # type: ignore[index]
        operations.append(replace(module.operation, inputs=inputs))
    return operations


class _Whole(nn.Module):
    """A call of the network with images alone, whatever else its `forward` takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


class _Tracer(fx.Tracer):
    """Follows each module as far down as its Python code can be followed."""

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        before, stack = set(self.graph.nodes), dict(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # of whatever the module's own code raises when it meets a proxy
            self.module_stack.clear()
            self.module_stack.update(stack)
            for node in reversed(self.graph.nodes):
                if node not in before and node.op != "get_attr":  # which the tracer may use again
                    self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _traced(network: nn.Module, images: Tensor) -> fx.GraphModule:
    whole = _Whole(network)
    return fx.GraphModule(whole, _Tracer().trace(whole))


def _exported(network: nn.Module, images: Tensor) -> fx.GraphModule:
    """The graph of torch's exporter, for any number of images."""
    sizes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(_Whole(network), (images,), dynamic_shapes=sizes)
    graph: Any = program.module(check_guards=False)
    found = fx.GraphModule(graph, graph.graph)
    found.graph.set_codegen(fx.graph.CodeGen())
    output = next(node for node in reversed(found.graph.nodes) if node.op == "output")
    ((result,),) = output.args  # of one output: the exporter makes it a tuple
    output.args = (result,)
    return found


class _Recorder(fx.Interpreter):
    """Runs a graph, and keeps of each value what does not grow with the number of images."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.constants: dict[fx.Node, Any] = {}
        self.scalars: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "get_attr" or (
            n.all_input_nodes and self.constants.keys() >= {*n.all_input_nodes}
        ):
            self.constants[n] = value
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            self.shapes[n] = tuple(value.shape)
        elif value is None or isinstance(value, int | torch.Size):
            self.scalars.add(n)
        return value


def _recognise(graph: fx.GraphModule, images: Tensor) -> None:
    """Put a `KnownOperation` in the place of each call that is one."""
    runs = [_Recorder(graph), _Recorder(graph)]
    for recorder, count in zip(runs, (3, 2), strict=True):
        recorder.run(images[:count].clone())
    values = {
        node: Value(node, shape[1:])
        for node, shape in runs[0].shapes.items()
        if len(shape) in (2, 4) and shape[0] == 3 and runs[1].shapes.get(node) == (2, *shape[1:])
    }
    for node, value in values.items():
        node.meta["shape"] = value.shape
    constants = runs[0].constants
    known: dict[fx.Node, Any] = {node: node for node in graph.graph.nodes} | values | constants
    names: dict[str, int] = {}
    for node in list(graph.graph.nodes):
        if not node.op.startswith("call_") or node in constants:
            continue
        target = graph.get_submodule(node.target) if node.op == "call_module" else node.target
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        if node not in values or _is_unsafe(node, target, args, kwargs):
            continue
        try:
            found = recognised(target, args, kwargs, values[node].shape)
        except UnknownError:
            continue
        name = _layer(node) if any(o.arrays for o in found.operations) else called(node)
        names[name] = count = names.get(name, 0) + 1
        layer = name if count == 1 else f"{name}#{count}"
        new = [value.node for value in found.inputs]
        with graph.graph.inserting_before(node):
            for step, operation in enumerate(found.operations):
                place = f"known_{node.name}_{step}"
                again = partial(_arrays, target, args, kwargs, values[node].shape, step)
                graph.add_submodule(place, KnownOperation(operation, layer, again))
                shape = shape_after(known[new[0]].shape, operation)
                new = [graph.graph.call_module(place, tuple(new))]
                new[0].meta["shape"] = shape
                known[new[0]] = Value(new[0], shape)
        node.replace_all_uses_with(new[0])
        graph.graph.erase_node(node)
    _erase_unused(graph, runs[0].scalars | constants.keys())


def _is_unsafe(node: fx.Node, target: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """True if a call writes over a tensor that something else may read."""
    return changes_its_input(target, args, kwargs) and not _is_own(node.all_input_nodes[0])


def _is_own(node: fx.Node) -> bool:
    """True if a value is in memory of its own and read once."""
    module = known_at(node)
    if module is None or len(node.users) != 1:
        return False
    return module.operation.kind != "flatten" or _is_own(node.all_input_nodes[0])


def _erase_unused(graph: fx.GraphModule, pure: set[fx.Node]) -> None:
    """Erase what nothing reads any more: constants, sizes and the assertions about them."""
    for node in reversed(graph.graph.nodes):
        idle = known_at(node) is not None or (node in pure and node.op != "call_module")
        if idle and not node.users and not changes_its_input(node.target, node.args, node.kwargs):
            graph.graph.erase_node(node)


def _fold(graph: fx.GraphModule) -> None:
    """Fold each affine map into the layer or map before it, where nothing else reads that."""
    for node, module in list(known_operations(graph)):
        before = node.all_input_nodes[0]
        first = known_at(before)
        if module.operation.kind != "affine" or first is None or len(before.users) > 1:
            continue
        if first.operation.kind not in ("convolution", "linear", "affine"):
            continue
        arrays = _after(first.operation.arrays, **module.operation.arrays)
        again = partial(_both, first.renew, module.renew)
        folded = KnownOperation(replace(first.operation, arrays=arrays), first.layer, again)
        graph.add_submodule(str(before.target), folded)
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)


def _arrays(target: Any, args: Any, kwargs: Any, result: tuple[int, ...], step: int) -> Arrays:
    """The arrays of one operation that a call is, from its tensors as they are now."""
    return recognised(target, args, kwargs, result).operations[step].arrays


def _both(first: Callable[[], Arrays], second: Callable[[], Arrays]) -> Arrays:
    return _after(first(), **second())


def _after(arrays: Mapping[str, Array], scale: Array, shift: Array) -> dict[str, Array]:
    """The arrays of a layer or map with another map behind it."""
    factor, shift = scale.astype(np.float64), shift.astype(np.float64)
    offset = "bias" if "bias" in arrays else "shift"
    (linear,) = arrays.keys() - {offset}
    slope = arrays[linear] * factor.reshape(-1, *(1,) * (arrays[linear].ndim - 1))
    found = {linear: slope, offset: arrays[offset] * factor + shift}
    return {name: array.astype(np.float32) for name, array in found.items()}


def _compare(output: Any, expected: Any) -> None:
    if not isinstance(output, Tensor) or not isinstance(expected, Tensor):
        raise UntraceableError("its output is not one tensor")
    if output.shape != expected.shape or output.dtype != expected.dtype:
        raise UntraceableError("its graph gives an output of another shape")
    scale = float(expected.abs().nan_to_num().max()) if expected.numel() else 0.0
    if not torch.allclose(output, expected, rtol=0, atol=AGREE * scale, equal_nan=True):
        raise UntraceableError("its graph computes something else")
