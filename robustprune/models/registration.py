"""A backbone of one's own, registered with timm."""

from __future__ import annotations

import functools
from collections.abc import Callable

from timm.models import register_model
from torch import nn

from robustprune.errors import UsageError


def register_backbone(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Register ``build`` with timm, without what timm passes for loading weights."""

    @functools.wraps(build)
    def entrypoint(pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            raise UsageError(
                f"'{build.__name__}' has no pretrained weights; leave out 'pretrained'."
            )
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(key, None)
        return build(**options)

    return register_model(entrypoint)
