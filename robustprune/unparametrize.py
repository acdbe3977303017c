"""Networks without parametrizations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize


def drop_parametrizations(layer: nn.Module) -> None:
    """Write each parametrized tensor's present value into ``layer`` as a plain one, in place."""
    if not parametrize.is_parametrized(layer):
        return
    # deep copies share the class that torch made up, and removal takes the tensor off it
    made_up = type(layer)
    layer.__class__ = type(made_up.__name__, made_up.__bases__, dict(vars(made_up)))
    for name in list(layer.parametrizations):  # type: ignore[arg-type]
        parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in eval mode and contiguous layout, free of parametrizations.

    Dropout, which does nothing in eval mode, is an identity in it. Weights that hooks compute
    before each call, as those of ``torch.nn.utils.prune`` do, stay so.
    """
    twin = copy.deepcopy(model, _computed(model))
    for module in list(twin.modules()):
        drop_parametrizations(module)
        for name, child in module.named_children():
            if isinstance(child, _DropoutNd):
                setattr(module, name, nn.Identity())
    return twin.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)


def _computed(model: nn.Module) -> dict[int, Any]:
    """Substitutes for tensors with a graph, which do not let themselves be copied."""
    attributes = (value for module in model.modules() for value in vars(module).values())
    tensors = (value for value in attributes if isinstance(value, torch.Tensor))
    return {id(tensor): tensor.detach().clone() for tensor in tensors if not tensor.is_leaf}
