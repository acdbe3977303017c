"""auto-LiRPA's graph of a network, made so that its bounds are bounds, and refused where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from robustprune.adapters.lirpa_library import lirpa
from robustprune.adapters.rules import RULES, Domain, equal_sides, is_leaf, kind_of, reason

if TYPE_CHECKING:
    from torch import Tensor, nn

AS_PATCHES = {
    *("Input", "Conv", "BatchNormalization", "Relu", "Linear", "Add"),
    *("Flatten", "Reshape", "ReduceMean", "AveragePool", "GlobalAveragePool"),
}
"""Right in linear bounds also where convolutions are propagated as patches."""


class RefusedError(NotImplementedError):
    """Bounds of an operator that may be none.

    Attributes:
        layer: the path of the layer that calls the operator; empty for the network itself.
        images: which images of a batch it is about, boolean; None if it is about all.
    """

    def __init__(self, node: Any, why: str, images: Tensor | None = None) -> None:
        super().__init__(why)
        self.layer, self.images = _layer_of(node), images


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
            raise RefusedError(node, why)


def _prepare(network: nn.Module) -> None:
    """Give layers the parameters that they leave out, and make buffers persistent.

    Otherwise the graph has constants and products of matrices, of which it bounds few.
    """
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase

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
    from torch import nn

    with _named_layers(network):
        graph = lirpa().BoundedModule(
            network,
            image,
            bound_opts={
                "conv_mode": mode,
                "minimum_sparsity": 1.0,  # version 0.3 fails below the unstable share
            },
            device=image.device,
        )
    # it takes the type of new tensors from its first parameter, and may be left with none
    graph._parameters["dtype"] = nn.Parameter(image.new_empty(0), requires_grad=False)
    _find_of_the_image(graph)
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


def _layer_of(node: Any) -> str:
    """A node's name is ``outer/outer.inner/17``, and may be followed by what it was split into."""
    layers: str = node.name.split("/split/")[0].rpartition("/")[0]
    return layers.rpartition("/")[2]


def _find_of_the_image(graph: Any) -> None:
    """Note for each node whether its value depends on the image; the library counts buffers in."""

    def depends(node: Any) -> bool:
        if not hasattr(node, "of_image"):
            shape = kind_of(node) == "Shape"
            node.of_image = kind_of(node) == "Input" or (
                not shape and any(list(map(depends, node.inputs)))
            )
        return bool(node.of_image)

    for node in graph._modules.values():
        depends(node)


def of_the_image(graph: Any) -> list[Any]:
    """The nodes whose value depends on the image."""
    return [node for node in graph._modules.values() if node.of_image]


def _make_right(graph: Any) -> None:
    """Put right what the library gets wrong and is easily had, and guard what it gets wrong."""
    for node in graph._modules.values():
        if not node.of_image and not is_leaf(node):
            node.interval_propagate = _value_of(node)
        if not node.of_image or kind_of(node) not in RULES:
            continue
        if kind_of(node) == "AveragePool":
            node.bound_backward = _of_contiguous(node.bound_backward)
        if kind_of(node) == "Div":
            node.interval_propagate = _quotients
        if kind_of(node) == "Reciprocal":  # its own makes float32 of everything
            node.interval_propagate = lambda below: (1 / below[1], 1 / below[0])
        if kind_of(node) == "Pow":
            node.bound_backward = _with_exponent(graph, node)
        if kind_of(node) in MAPS and not all(operand.of_image for operand in node.inputs):
            _make_affine(graph, node)
        if (domain := RULES[kind_of(node)].domain) is not None:
            _guard(graph, node, domain)


def _value_of(node: Any) -> Callable[..., Any]:
    """The interval of what does not depend on the image; else products of two are squares."""

    def interval_propagate(*operands: Any) -> Any:
        value = node.forward(*(lower for lower, _ in operands))
        return value, value

    return interval_propagate


def _quotients(above: Any, below: Any) -> tuple[Tensor, Tensor]:
    """The interval of a quotient by what is not 0; the library's is for positive numbers."""
    ends = torch.stack([a / b for a in above for b in below])
    return ends.amin(0), ends.amax(0)


MAPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Add": (lambda k: (1, k), lambda k: (1, k)),
    "Sub": (lambda k: (1, -k), lambda k: (-1, k)),
    "Mul": (lambda k: (k, 0), lambda k: (k, 0)),
    "Div": (lambda k: (1 / k, 0), lambda k: (0, 0)),  # the second is refused
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
    from torch import Tensor

    def bound_backward(*coefficients: Any, **options: Any) -> Any:
        plain = (c.contiguous() if isinstance(c, Tensor) else c for c in coefficients)
        return backward(*plain, **options)

    return bound_backward


def _with_exponent(graph: Any, node: Any) -> Callable[..., Any]:
    """Powers look for the exponent where the library has put it in some kinds of bounds only."""
    backward, exponent = node.bound_backward, node.inputs[1]

    def bound_backward(*arguments: Any, **options: Any) -> Any:
        exponent.lower = graph.get_forward_value(exponent)
        return backward(*arguments, **options)

    return bound_backward


def _guard(graph: Any, node: Any, domain: Domain) -> None:
    """Ask for a domain whenever a node's bounds are computed, of the interval that they rest on."""
    propagate, backward = node.interval_propagate, node.bound_backward
    operand = node.inputs[domain.operand]

    def interval_propagate(*operands: Any) -> Any:
        _check_domain(node, domain, *operands[domain.operand])
        return propagate(*operands)

    def bound_backward(*arguments: Any, **options: Any) -> Any:
        _tighten(graph, operand)
        _check_domain(node, domain, operand.lower, operand.upper)
        return backward(*arguments, **options)

    if domain.asked(node, False):
        node.interval_propagate = interval_propagate
    if domain.asked(node, True):
        node.bound_backward = bound_backward


def _tighten(graph: Any, node: Any) -> None:
    """Cut a node's interval with the one that follows from the intervals before it.

    CROWN's alone reaches below 0 where a sum of ReLUs does not.
    """
    if is_leaf(node):
        return
    lower, upper = node.lower, node.upper
    vars(node).pop("interval", None)
    low, high = graph.IBP_general(node=node, delete_bounds_after_use=True)
    node.lower, node.upper = torch.maximum(lower, low), torch.minimum(upper, high)
    node.interval = node.lower, node.upper


def _check_domain(node: Any, domain: Domain, lower: Tensor, upper: Tensor) -> None:
    holds = domain.holds(lower, upper)
    if bool(holds.all()):
        return
    images = ~holds.flatten(1).all(1) if node.inputs[domain.operand].of_image else None
    raise RefusedError(node, f"in all of the ball it needs {domain.words}", images)


def _is_plain(node: Any) -> bool:
    """Whether an operator that goes as patches does so with these sizes: squares throughout."""
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
