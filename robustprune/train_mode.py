"""Train and eval mode of networks, restored module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
