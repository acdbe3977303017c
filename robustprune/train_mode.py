"""Train and eval mode of networks, restored module by module, and the statistics it moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode for a block.

    Each module gets its own mode back, so a network some of whose layers are kept in eval mode
    on purpose stays so (`model.train()` would switch all of them).
    """
    training = [module for module in model.modules() if module.training]
    if training:  # smoothing comes here once for each 100 samples, and then there are none
        model.eval()
    try:
        yield
    finally:
        for module in model.modules():
            if module.training:
                module.training = False
        for module in training:
            module.training = True


@contextmanager
def attack_mode(model: nn.Module, device: str) -> Iterator[None]:
    """Put ``model`` in eval mode for an attack, in a precision that keeps gradients of images.

    An attack follows a stage in bfloat16, whose range is float32's. In float16 it does not: small
    gradients would vanish, and with them the attack.

    Args:
        model: the network to be attacked.
        device: the type of device that it is on, e.g. ``cuda``.
    """
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    with eval_mode(model), torch.autocast(device, enabled=False) if half else nullcontext():
        yield


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running statistics of the norm layers that are learning them, by name."""
    return {
        f"{name}.{key}": tensor
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.training and module.track_running_stats
        for key, tensor in module.named_buffers(recurse=False)
    }


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Put the running statistics back when the block ends."""
    before = {name: tensor.clone() for name, tensor in statistics(model).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in statistics(model).items():
                tensor.copy_(before[name])
