"""Models: timm's and the paper's backbones, with normalisation inside.

timm and torch are imported when a model is created, and timm in this package only.
"""

from __future__ import annotations

from robustprune.models.catalogue import BACKBONES, Backbone, backbones
from robustprune.models.factory import (
    check_name,
    create_model,
    image_size,
    model_names,
    registered_by,
)
from robustprune.models.options import ModelOptions

__all__ = [
    "BACKBONES",
    "Backbone",
    "ModelOptions",
    "backbones",
    "check_name",
    "create_model",
    "image_size",
    "model_names",
    "registered_by",
]
