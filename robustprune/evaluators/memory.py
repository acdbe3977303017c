"""How much memory a bound takes, from the shapes of a network's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustprune.evaluators.bounds import Method

_COPIES = 12
"""How often auto-LiRPA holds a matrix, or all intervals, at once: seen were 4 to 12 on perceptrons,
our CNNs and deeper ones; up to 20 for CROWN-IBP on deep ones, which takes little anyway."""


class Layer(NamedTuple):
    """A convolution, a pooling or a linear layer. Entries are those of one image.

    Attributes:
        inputs: entries that it takes.
        outputs: entries that it gives.
        channels: of its input.
        kernel: side of what one output depends on; infinite for a linear layer.
        stride: between two such.
    """

    inputs: int
    outputs: int
    channels: int
    kernel: float
    stride: int


def bytes_an_image(model: nn.Module, images: Tensor, *, classes: int) -> dict[Method, int]:
    """Roughly what each bound takes for one image, every neuron being undecided.

    All bounds keep an interval for each neuron. Linear ones go backwards through the network with a
    matrix besides: a row for each neuron that is bounded, a column for each entry of an earlier
    layer that it depends on. CROWN-IBP does so from the margins, CROWN from each hidden layer too.

    Args:
        model: in eval mode.
        images: ``(n, channels, height, width)``; the first is passed through.
        classes: the number of logits.
    """
    layers = layers_of(model, images[:1])
    sizes = [layer.inputs for layer in layers] or [images[0].numel()]
    margins = (classes - 1) * max(sizes)
    hidden = [layers[n].outputs * reach(layers[: n + 1]) for n in range(len(layers) - 1)]
    matrix = max([margins, *hidden])
    matrices: dict[Method, int] = {
        "ibp": 0,
        "crown_ibp": margins,
        "crown": matrix,
        "alpha_crown": matrix,
    }
    factor = _COPIES * images.element_size()
    return {method: factor * (sum(sizes) + entries) for method, entries in matrices.items()}


def reach(layers: list[Layer]) -> int:
    """On how many entries of an earlier layer's input one output of the last depends at most.

    Branches count as if they stood one after the other, which is too much rather than too little.
    """
    side, most = 1.0, 0
    for layer in reversed(layers):
        side = (side - 1) * layer.stride + layer.kernel
        most = max(most, int(min(layer.inputs, side**2 * layer.channels)))
    return most


def layers_of(model: nn.Module, image: Tensor) -> list[Layer]:
    """The layers that one image, ``(1, channels, height, width)``, passes, in their order."""
    import torch
    from torch import nn

    layers: list[Layer] = []

    def note(module: nn.Module, args: tuple[Tensor], output: Any) -> None:
        shape = args[0].shape[1:]
        kernel = _largest(module.kernel_size) if hasattr(module, "kernel_size") else torch.inf
        stride = _largest(getattr(module, "stride", 1))
        layers.append(Layer(shape.numel(), output[0].numel(), shape[0], kernel, stride))

    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if hasattr(module, "kernel_size") or isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def _largest(sides: Any) -> int:
    return max(sides) if isinstance(sides, tuple) else int(sides)
