"""Masks on any network's own layers: which weights are kept, and how that is learned.

Four small ideas, a file each: *which* (`scores`), *where* (`allocations`), *what is selected*
(`topk`), *how it acts on a layer* (`layer`); `masked` joins them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustprune.masking.masked import LayerReport, MaskedModel, attach, prunable_layers

__all__ = ["LayerReport", "MaskedModel", "attach", "prunable_layers"]


def __getattr__(name: str) -> Any:
    """Import torch only when a network is masked: recipes are validated without it."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from robustprune.masking import masked

    return getattr(masked, name)
