"""A network's normalisation, folded into its first layer where that is exact."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robustprune.artifacts.saved import try_on
from robustprune.errors import UsageError
from robustprune.masking import prunable_layers
from robustprune.models.normalize import Normalized

_TOLERANCE = 1e-9  # in double precision, of the logits' size


def folded(model: Normalized, *, image_size: int) -> tuple[nn.Module, str]:
    """The backbone alone, taking images in [0, 1], and the name of the layer that was changed.

    With W' = W / std and b' = b − Σ W·mean / std the first layer computes what it did, in exact
    arithmetic: if it has a bias and pads nothing (padding is 0 before the normalisation and
    −mean / std after it), or if mean is 0. Pruned weights stay 0.

    Args:
        model: left as it is.
        image_size: what it is tried on; it must suit the network.

    Raises:
        UsageError: it would not be exact; the message says why.
    """
    backbone = copy.deepcopy(model.backbone).eval()
    mean, std = model.normalize.mean.flatten().double(), model.normalize.std.flatten().double()
    images = torch.rand(
        2, len(mean), image_size, image_size, generator=torch.Generator().manual_seed(0)
    )
    name = _first_layer(backbone, images)
    layer = prunable_layers(backbone)[name]
    if bool(mean.any()) and not (_unpadded(layer) and layer.bias is not None):
        raise UsageError(
            "the network normalises its images, which can be folded into its first layer, "
            f"'{name}', only if that has a bias and no padding. Export it "
            "--normalisation inside, as a state dict that states the mean and standard deviation."
        )
    with torch.no_grad():
        exact = copy.deepcopy(backbone).double()
        _fold(prunable_layers(exact)[name], mean, std)
        before = copy.deepcopy(model).eval().double()(images.double())
        after = exact(images.double())
        _fold(layer, mean, std)
    if not torch.allclose(before, after, rtol=0, atol=_TOLERANCE * float(before.abs().max())):
        raise UsageError(
            f"the network uses its images elsewhere than in its first layer, '{name}', so that its "
            "normalisation cannot be folded into that. Export it --normalisation inside."
        )
    return backbone, name


def _fold(layer: nn.Conv2d | nn.Linear, mean: Tensor, std: Tensor) -> None:
    """Change one layer; computed in double precision, kept in the layer's own."""
    weight = layer.weight.double()
    scaled = weight / std.view(1, -1, *[1] * (weight.ndim - 2))
    if layer.bias is not None:
        shift = scaled.sum(dim=tuple(range(2, weight.ndim))) @ mean
        layer.bias.copy_(layer.bias.double() - shift)
    layer.weight.copy_(scaled)


def _first_layer(backbone: nn.Module, images: Tensor) -> str:
    """The layer that sees the images themselves."""
    seen: list[str] = []
    layers = prunable_layers(backbone)
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.append(name))
        for name, layer in layers.items()
    ]
    try:
        try_on(backbone, images, purpose="a folded normalisation is tried")
    finally:
        for hook in hooks:
            hook.remove()
    name = seen[0]
    first = layers[name]
    if not isinstance(first, nn.Conv2d) or first.groups != 1:
        raise UsageError(
            f"the network normalises its images, and its first layer, '{name}', is no ordinary "
            "convolution to fold that into. Export it --normalisation inside."
        )
    return name


def _unpadded(layer: nn.Conv2d | nn.Linear) -> bool:
    return isinstance(layer, nn.Linear) or layer.padding in ("valid", (0, 0))
