"""Masks on any network's own layers: which weights are kept, and how that is learned.

Four small ideas are kept apart, as in jaxpruner: *which* (`selection`), *where* (`allocations`),
*what shape* (`structures`), *when* (`schedules`). `masked` holds the masks.
"""

from __future__ import annotations

from robustprune.masking.masked import Change, MaskedModel, attach
from robustprune.masking.prunable import prunable_layers
from robustprune.masking.selection import select
from robustprune.masking.table import LayerReport

__all__ = ["Change", "LayerReport", "MaskedModel", "attach", "prunable_layers", "select"]
