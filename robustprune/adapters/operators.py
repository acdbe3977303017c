"""auto-LiRPA's graph of a network, made so that its bounds are bounds, and refused where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from robustprune.adapters.lirpa_library import lirpa
from robustprune.adapters.rules import FAR, RULES, equal_sides, is_leaf, kind_of, reason
from robustprune.adapters.unbounded import RefusedError, is_memory
from robustprune.errors import first_line

AS_PATCHES = {
    *("Input", "Conv", "BatchNormalization", "Relu", "Linear", "Add"),
    *("Flatten", "Reshape", "ReduceMean", "AveragePool", "GlobalAveragePool"),
}
"""Right in linear bounds also where convolutions are propagated as patches."""


def graph_of(network: nn.Module, image: Tensor) -> Any:
    """The library's graph of a network.

    Patches make CROWN several times as fast, but only where every operator can be one of them.

    Args:
        network: plain, in eval mode; `_prepare` changes it.
        image: ``(1, channels, height, width)``.
    """
    _prepare(network)
    graph = _graph(network, image, "patches")
    if not all(kind_of(node) in AS_PATCHES and _is_plain(node) for node in of_the_image(graph)):
        graph = _graph(network, image, "matrix")
    _make_right(graph)
    return graph


def refuse_wrong(graph: Any, *, bound: str) -> None:
    """Stop where the library may give a number that is no bound.

    Args:
        graph: auto-LiRPA's.
        bound: the library's name of the bound.

    Raises:
        RefusedError: as said.
    """
    images = next(node for node in graph._modules.values() if kind_of(node) == "Input")
    for node in of_the_image(graph):
        if node is images:
            continue
        why = reason(node, linear=bound != "IBP")
        if not why and node.output_shape[:1] != images.output_shape[:1]:
            why = "it moves the axis of the images"
        if why:
            raise RefusedError(node.name, why)


def _prepare(network: nn.Module) -> None:
    """Give layers the parameters that they leave out, and make buffers persistent.

    Otherwise the graph has constants and products of matrices, of which it bounds few.
    """
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer)
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if isinstance(module, nn.Linear) and "bias" not in names:
            zeros = module.weight.new_zeros(module.out_features)
            module.bias = nn.Parameter(zeros, requires_grad=False)
        if isinstance(module, _NormBase) and "weight" not in names and not module.affine:
            ones = torch.ones(module.num_features).to(next(module.buffers()))
            module.weight = nn.Parameter(ones, requires_grad=False)
            module.bias = nn.Parameter(torch.zeros_like(ones), requires_grad=False)


def _graph(network: nn.Module, image: Tensor, mode: str) -> Any:
    options = {"conv_mode": mode, "minimum_sparsity": 1.0}  # 0.3 fails below the unstable share
    try:
        with _named_layers(network):
            graph = lirpa().BoundedModule(network, image, bound_opts=options, device=image.device)
    except Exception as error:
        if is_memory(error):
            raise
        raise _located(error) from error
    # it takes the type of new tensors from its first parameter, and may be left with none
    graph._parameters["dtype"] = nn.Parameter(image.new_empty(0), requires_grad=False)
    for node in graph._modules.values():
        _depends(node)
    return graph


@contextmanager
def _named_layers(network: nn.Module) -> Iterator[None]:
    """Let the tracer put the layer's path before the name of each node that it calls."""
    trace: Any = torch.jit._trace
    before = getattr(trace, "_trace_module_map", None)
    trace._trace_module_map = {layer: name for name, layer in network.named_modules()}
    try:
        yield
    finally:
        trace._trace_module_map = before


def _located(error: Exception) -> RefusedError:
    """The error with the operator that the library stopped at, if it did; its own names none."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_name != "_convert_nodes":
        frame = frame.tb_next
    seen: dict[str, Any] = {} if frame is None else frame.tb_frame.f_locals
    number = seen.get("n")
    node: Any = seen["nodesOP"][number] if isinstance(number, int) else None
    node = next(iter(seen.get("unsupported_ops", [])), node)
    if not hasattr(node, "op"):
        return RefusedError("", first_line(error))
    kind = node.op.rpartition(":")[2]
    return RefusedError(node.name, f"it cannot take {kind}: {first_line(error)}")


def _depends(node: Any) -> bool:
    """Note whether a node's value depends on the image; the library counts buffers in."""
    if not hasattr(node, "of_image"):
        below = any(map(_depends, node.inputs))
        node.of_image = kind_of(node) == "Input" or (kind_of(node) != "Shape" and below)
    return bool(node.of_image)


def of_the_image(graph: Any) -> list[Any]:
    """The nodes whose value depends on the image."""
    return [node for node in graph._modules.values() if node.of_image]


def _make_right(graph: Any) -> None:
    """Put right what the library gets wrong and is easily had, and guard what it gets wrong."""
    for node in graph._modules.values():
        kind = kind_of(node)
        if not node.of_image and not is_leaf(node):
            node.interval_propagate = _value_of(node)
        if not node.of_image or kind not in RULES:
            continue
        if kind == "AveragePool":
            node.bound_backward = _of_contiguous(node.bound_backward)
        if kind == "Div":
            node.interval_propagate = _quotients
        if kind in MAPS and not all(operand.of_image for operand in node.inputs):
            _make_affine(graph, node)
        if RULES[kind].near:
            node.bound_backward = _near(node)


def _value_of(node: Any) -> Callable[..., Any]:
    """The interval of what does not depend on the image; else products of two are squares."""

    def interval_propagate(*operands: Any) -> Any:
        value = node.forward(*(lower for lower, _ in operands))
        return value, value

    return interval_propagate


def _quotients(above: Any, below: Any) -> tuple[Tensor, Tensor]:
    """The interval of a quotient; the library's is for positive denominators."""
    ends = torch.stack([a / b for a in above for b in below])
    return ends.amin(0), ends.amax(0)


MAPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Add": (lambda k: (1, k), lambda k: (1, k)),
    "Sub": (lambda k: (1, -k), lambda k: (-1, k)),
    "Mul": (lambda k: (k, 0), lambda k: (k, 0)),
    "Div": (lambda k: (1 / k, 0), lambda k: (0, 0)),  # constants above are refused
}
"""Factor and offset of an operator with a constant k, which stands second, or first."""


def _make_affine(graph: Any, node: Any) -> None:
    """Give an operator with a constant the linear bounds of the map that it is.

    The library's own are wrong for constants of fewer axes, and for those that are computed.
    """
    first = bool(node.inputs[0].of_image)
    image, constant = node.inputs if first else node.inputs[::-1]
    map_of = MAPS[kind_of(node)][0 if first else 1]

    def bound_backward(lower: Any, upper: Any, *_: Any, **__: Any) -> Any:
        factor, offset = map_of(graph.get_forward_value(constant))
        biases = [0 if a is None else (a * offset).flatten(2).sum(2) for a in (lower, upper)]
        maps = tuple(None if a is None else _summed(a * factor, image) for a in (lower, upper))
        pairs = [maps, (None, None)]
        return pairs if first else pairs[::-1], *biases

    node.bound_backward, node.requires_input_bounds = bound_backward, []


def _summed(coefficients: Tensor, operand: Any) -> Tensor:
    """Summed over the axes along which an operand of one entry was repeated."""
    sizes = operand.output_shape[1:]
    repeated = [axis + 2 for axis, size in enumerate(sizes) if size == 1]
    return coefficients.sum(repeated, keepdim=True) if repeated else coefficients


def _of_contiguous(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Average pooling's own fails for coefficients in any other layout."""

    def bound_backward(*coefficients: Any, **options: Any) -> Any:
        plain = (c.contiguous() if isinstance(c, Tensor) else c for c in coefficients)
        return backward(*plain, **options)

    return bound_backward


def _near(node: Any) -> Callable[..., Any]:
    """A node's linear bounds, asked for the interval that they rest on whenever they are taken."""
    backward, operand = node.bound_backward, node.inputs[0]

    def bound_backward(*arguments: Any, **options: Any) -> Any:
        far = ~((operand.lower >= -FAR) & (operand.upper <= FAR)).flatten(1).all(1)
        if bool(far.any()):
            words = f"in all of the ball it needs values from {-FAR:g} to {FAR:g}"
            raise RefusedError(node.name, words, far)
        return backward(*arguments, **options)

    return bound_backward


def _is_plain(node: Any) -> bool:
    """True if an operator that goes as patches does so with these sizes: squares throughout."""
    kind = kind_of(node)
    if kind == "Add":
        return len(node.output_shape) == 4 and all(n.of_image for n in node.inputs)
    if kind in ("Flatten", "Reshape"):
        return len(node.output_shape) == 2
    if kind == "AveragePool":
        return len(set(node.kernel_size)) == 1 and equal_sides(node)
    if kind != "Conv":
        return True
    kernel, image = node.inputs[1].output_shape[2:], node.input_shape[2:]
    sizes = (kernel, image, node.stride, node.padding)
    return node.groups == 1 and set(node.dilation) == {1} and all(len(set(s)) == 1 for s in sizes)
