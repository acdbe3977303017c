"""Models: timm's and the paper's backbones, with normalisation inside.

timm is imported when a network is built or names are listed, and in this package only.
"""

from __future__ import annotations

from robustprune.models.factory import (
    BACKBONES,
    check_name,
    create_model,
    image_size,
    model_names,
    registered_by,
)
from robustprune.models.options import ModelOptions

__all__ = [
    "BACKBONES",
    "ModelOptions",
    "check_name",
    "create_model",
    "image_size",
    "model_names",
    "registered_by",
]
