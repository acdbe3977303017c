"""Recipes: a paper setting as a file. The only place that reads YAML."""

from __future__ import annotations

from robustprune.recipe.load import inconsistencies, load_recipe
from robustprune.recipe.schema import (
    ComputeOptions,
    PruneOptions,
    Recipe,
    StageChanges,
    StageOptions,
)

__all__ = [
    "ComputeOptions",
    "PruneOptions",
    "Recipe",
    "StageChanges",
    "StageOptions",
    "inconsistencies",
    "load_recipe",
]
