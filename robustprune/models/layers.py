"""What our backbones share: how they are initialised and how timm calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import nn

from robustprune.errors import UsageError

P = ParamSpec("P")
Net = TypeVar("Net", bound=nn.Module)

_LOADING = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def initialise(network: Net) -> Net:
    """``network``, drawn anew from the global torch generator, which the caller forks.

    Convolutions are Kaiming normal over their outgoing connections (He et al. 2015, as in VGG,
    WideResNet and the paper's networks), linear layers keep PyTorch's Kaiming uniform, biases
    are 0, and norm layers start as the identity.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


def without_weights(build: Callable[P, Net]) -> Callable[..., Net]:
    """Let timm call ``build``: it passes what a model needs to load weights, and ours have none.

    Raises:
        UsageError: pretrained weights were asked for.
    """

    @functools.wraps(build)
    def entrypoint(pretrained: bool = False, **options: object) -> Net:
        if pretrained:
            raise UsageError(
                f"'{build.__name__}' has no pretrained weights; leave out 'pretrained'."
            )
        kept = {key: value for key, value in options.items() if key not in _LOADING}
        return build(**kept)  # type: ignore[call-arg, arg-type]

    return entrypoint
