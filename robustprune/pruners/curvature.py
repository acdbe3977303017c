"""Second moments of what layers get: the curvature of their outputs' squared error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from robustprune.errors import UsageError
from robustprune.masking import MaskedModel
from robustprune.objectives import Objective
from robustprune.pruners.base import Pruner
from robustprune.train_mode import eval_mode

BYTES = 2**26
"""Memory that one part of a computation may take; a layer's images, or rows, come in parts."""
_KNOWN = (nn.Conv2d, nn.Linear, NonDynamicallyQuantizableLinear)


@contextmanager
def layer_inputs(masked: MaskedModel) -> Iterator[dict[str, Tensor]]:
    """Gather Σ xxᵀ of the inputs x of each masked layer, whenever the network is called inside.

    A convolution's inputs are its patches, one for each image and position of its output. Layers
    that share a weight share a sum.

    Yields:
        A dictionary that fills with ``(groups, d, d)`` doubles, by the weight's name; d is the
        number of weights of an output.

    Raises:
        UsageError: a layer's class is not known, so neither is its input; or, when the block ends,
            a layer was never called.
    """
    moments: dict[str, Tensor] = {}
    hooks: list[Any] = []
    try:
        for name, layers in masked.layers.items():
            for layer in layers:
                _refuse_unknown(name, layer)
                gather = partial(_gather, moments, name)
                hooks.append(layer.register_forward_pre_hook(gather))
        yield moments
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [name.removesuffix(".weight") for name in masked.weights if name not in moments]:
        raise UsageError(
            f"layers {', '.join(missing)} are not called as layers, so their inputs cannot be "
            "seen. Leave them dense: exclude."
        )


def _refuse_unknown(name: str, layer: nn.Module) -> None:
    kind = parametrize.type_before_parametrizations(layer)
    if kind not in _KNOWN:
        raise UsageError(
            f"layer '{name.removesuffix('.weight')}' is a {kind.__name__}, whose inputs are not "
            "known: Conv2d and Linear are. Leave it dense: exclude."
        )


@torch.no_grad()
def _gather(moments: dict[str, Tensor], name: str, layer: nn.Module, given: Any) -> None:
    images = given[0].detach()
    width = int(layer.weight[0].numel())  # type: ignore[index]
    each = 8 * width * images[0].numel() // (images.shape[1] if isinstance(layer, nn.Linear) else 1)
    for part in images.split(max(1, BYTES // max(each, 1))):
        inputs = unfolded(layer, part.double())
        product = inputs.transpose(1, 2) @ inputs
        moments[name] = moments[name] + product if name in moments else product


def unfolded(layer: nn.Module, images: Tensor) -> Tensor:
    """The inputs of each output of a layer, as those of a linear one.

    Args:
        layer: a Conv2d or Linear layer.
        images: what it is called with.

    Returns:
        ``(groups, images · positions, d)``, in the order of the weights of an output.
    """
    if not isinstance(layer, nn.Conv2d):
        return images.reshape(1, -1, images.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
    patches = F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    count, width, positions = patches.shape
    grouped = patches.view(count, layer.groups, width // layer.groups, positions)
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def products(rows: Tensor, matrices: Tensor) -> Tensor:
    """``H·w`` of each row w, by its group's H; ``(out, d)``.

    Args:
        rows: ``(out, d)``.
        matrices: ``(groups, d, d)``, symmetric.
    """
    return (rows.view(len(matrices), -1, rows.shape[1]) @ matrices).flatten(0, 1)


def as_images(attacked: Tensor, images: Tensor) -> Tensor:
    """Attacked images in one row, of objectives that give several copies of each as well."""
    return attacked.detach().reshape(-1, *images.shape[1:])


def refusals(pruner: Pruner, objective: Objective, *, attacks: bool) -> Iterator[str]:
    """Tell what keeps a pruner of single weights that attacks images from an objective.

    Args:
        pruner: its options.
        objective: the stage's.
        attacks: true if the images are attacked.
    """
    structure = pruner.structure.registered_name
    if structure != "weight":
        yield (
            f"it measures single weights, and structure '{structure}' removes others: use "
            "structure: weight"
        )
    if attacks and not objective.attacks_apart:
        yield f"it measures on attacked images alone, and {objective.one_pass}"


@torch.no_grad()
def reestimate_norms(masked: MaskedModel, batches: list[Tensor]) -> None:
    """Measure the running statistics of BatchNorm layers anew, each the mean over the batches.

    Nothing else changes; all other layers are in eval mode meanwhile.

    Args:
        masked: the network.
        batches: images; single ones are left out, as they have no variance.
    """
    model, batches = masked.model, [images for images in batches if len(images) > 1]
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or not batches:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        with eval_mode(model), masked.cached():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean
                norm.train()
            for images in batches:
                model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
