"""Masks on any network's own layers: which weights are kept, and how that is learned.

Four small ideas, a file each: *which* (`scores`, of what `prunable` finds), *where*
(`allocations`), *what is selected* (`topk`), *how it acts on a layer* (`layer`); `masked` joins
them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustprune.masking.masked import LayerReport, MaskedModel, attach
    from robustprune.masking.prunable import prunable_layers

_MODULES = {
    "LayerReport": "masked",
    "MaskedModel": "masked",
    "attach": "masked",
    "prunable_layers": "prunable",
}
__all__ = ["LayerReport", "MaskedModel", "attach", "prunable_layers"]


def __getattr__(name: str) -> Any:
    """Import torch only when a network is masked: recipes are validated without it."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
