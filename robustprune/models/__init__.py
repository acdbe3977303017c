"""Models: timm's and the paper's backbones, with normalisation inside.

timm is imported for its own networks and for lists of names, and in this package only.
"""

from __future__ import annotations

from robustprune.models.architectures import BACKBONES
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
    "ModelOptions",
    "check_name",
    "create_model",
    "image_size",
    "model_names",
    "registered_by",
]
