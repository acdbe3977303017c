"""Masks on any network's own layers: which weights are kept, and how that is learned.

Four small ideas are kept apart, as in jaxpruner: *which* (`scores`, `selection`), *where*
(`allocations`), *what shape* (`structures`), *when* (`schedules`). `masked` holds the masks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustprune.masking.masked import Change, LayerReport, MaskedModel, attach
    from robustprune.masking.prunable import prunable_layers
    from robustprune.masking.selection import select

_MODULES = {
    "Change": "masked",
    "LayerReport": "masked",
    "MaskedModel": "masked",
    "attach": "masked",
    "prunable_layers": "prunable",
    "select": "selection",
}
__all__ = ["Change", "LayerReport", "MaskedModel", "attach", "prunable_layers", "select"]


def __getattr__(name: str) -> Any:
    """Import torch only when a network is masked: recipes are validated without it."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
