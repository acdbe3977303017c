"""Which of auto-LiRPA 0.3's operators give bounds that are bounds, and in which of its modes.

Its linear bounds (CROWN-IBP, CROWN, α-CROWN) are above the true minimum for some networks that it
takes: average pooling whose windows overlap, dilated and grouped convolutions as patches, leaky
ReLU with a slope outside [0, 1], -x before a ReLU, the square root. So an operator needs to have
been compared with the exact minimum (or a dense search) before it is let through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robustprune.adapters.lirpa_library import lirpa

if TYPE_CHECKING:
    from torch import Tensor, nn

AS_PATCHES = {
    *("Input", "Buffers", "Conv", "BatchNormalization", "Relu", "Linear", "Add"),
    *("Flatten", "Reshape", "ReduceMean", "AveragePool", "GlobalAveragePool"),
}
"""Right in linear bounds also where convolutions are propagated as patches."""

RIGHT = AS_PATCHES | {
    *("LeakyRelu", "Sigmoid", "Tanh", "MaxPool", "ConvTranspose", "Mul", "Concat", "Gather"),
    *("Sub", "Div", "Slice", "Split", "Transpose", "Squeeze", "Unsqueeze", "ReduceSum", "Identity"),
}
"""Right in linear bounds."""


def graph_of(network: nn.Module, image: Tensor) -> Any:
    """The library's graph of a network.

    Patches make CROWN several times as fast, but only where every operator can be one of them.

    Args:
        network: plain, in eval mode; `_prepare` changes it.
        image: ``(1, channels, height, width)``.
    """
    _prepare(network)
    graph = _graph(network, image, "patches")
    if all(_kind(node) in AS_PATCHES and _is_plain(node) for node in _of_the_image(graph)):
        return graph
    return _graph(network, image, "matrix")


def refuse_wrong(graph: Any, *, bound: str) -> None:
    """Stop where the library gives a number that may be no bound.

    Args:
        graph: auto-LiRPA's.
        bound: the library's name of the bound.

    Raises:
        NotImplementedError: as said.
    """
    for node in _of_the_image(graph):
        kind = _kind(node)
        if kind == "LeakyRelu" and not 0 <= node.alpha <= 1:
            raise NotImplementedError(f"its slope {node.alpha:g} is not in [0, 1]")
        if bound == "IBP":
            continue
        if kind not in RIGHT:
            raise NotImplementedError(f"its bounds of {kind} are not known to be right")
        if kind == "AveragePool" and not _tiles(node):
            raise NotImplementedError("its windows must tile the image, without padding")


def _prepare(network: nn.Module) -> None:
    """Make buffers persistent and biases of linear layers zero where there are none.

    Otherwise the graph has constants and products of matrices, of which it bounds few.
    """
    from torch import nn

    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer)
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if isinstance(module, nn.Linear) and "bias" not in names:
            zeros = module.weight.new_zeros(module.out_features)
            module.bias = nn.Parameter(zeros, requires_grad=False)


def _graph(network: nn.Module, image: Tensor, mode: str) -> Any:
    from torch import nn

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
    for node in _of_the_image(graph):
        if _kind(node) == "AveragePool":
            node.bound_backward = _of_contiguous(node.bound_backward)
    return graph


def _of_contiguous(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Average pooling's own fails for coefficients in any other layout."""
    from torch import Tensor

    def bound_backward(*coefficients: Any, **options: Any) -> Any:
        plain = (c.contiguous() if isinstance(c, Tensor) else c for c in coefficients)
        return backward(*plain, **options)

    return bound_backward


def _of_the_image(graph: Any) -> list[Any]:
    """The nodes whose value depends on the image."""
    return [node for node in graph._modules.values() if node.from_input]


def _kind(node: Any) -> str:
    return type(node).__name__.removeprefix("Bound")


def _is_plain(node: Any) -> bool:
    """Whether an operator that goes as patches does so with these sizes: squares throughout."""
    if _kind(node) == "Add":
        return len(node.output_shape) == 4
    if _kind(node) == "AveragePool":
        return len(set(node.kernel_size)) == 1
    if _kind(node) != "Conv":
        return True
    kernel, image = node.inputs[1].output_shape[2:], node.input_shape[2:]
    sizes = (kernel, image, node.stride, node.padding)
    return node.groups == 1 and set(node.dilation) == {1} and all(len(set(s)) == 1 for s in sizes)


def _tiles(pool: Any) -> bool:
    """Whether windows neither overlap nor leave gaps, and as much is left over in both axes."""
    left_over = {size % k for size, k in zip(pool.input_shape[2:], pool.kernel_size, strict=True)}
    return (
        list(pool.stride) == list(pool.kernel_size)
        and not any(pool.padding)
        and len(left_over) == 1
    )
