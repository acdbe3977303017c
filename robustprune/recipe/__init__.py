"""Recipes: a paper setting as a file. The only place that reads YAML."""

from __future__ import annotations

from robustprune.recipe.load import inconsistencies, load_recipe
from robustprune.recipe.schema import ComputeOptions, PhaseOptions, PruneOptions, Recipe

__all__ = [
    "ComputeOptions",
    "PhaseOptions",
    "PruneOptions",
    "Recipe",
    "inconsistencies",
    "load_recipe",
]
