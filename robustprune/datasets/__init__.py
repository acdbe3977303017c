"""Labelled images: registered datasets, their splits, and seeded batches of them."""

from __future__ import annotations

from robustprune.datasets.base import Dataset, Splits
from robustprune.datasets.extra import Extra
from robustprune.registry import Registry

__all__ = ["Dataset", "Extra", "Splits", "create", "get", "names", "register", "registry"]

registry = Registry(
    "datasets",
    base=Dataset,  # type: ignore[type-abstract]
    modules=["robustprune.datasets.small_images", "robustprune.datasets.imagefolder"],
)
register = registry.register
create = registry.create
names = registry.names
get = registry.get
