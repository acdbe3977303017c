"""timm's own pretrained weights, from its cache or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robustprune.errors import UsageError, first_line
from robustprune.models.catalogue import BACKBONES
from robustprune.models.factory import NOT_ARGUMENTS

if TYPE_CHECKING:
    from torch import nn

NAME = "pretrained"
"""What ``weights`` is called where timm's are meant."""


def load_into(model: nn.Module, architecture: Mapping[str, Any]) -> None:
    """Give a network the weights that timm has for it.

    A model's tag (``resnet50.a1_in1k``) names which; without one they are timm's default. A last
    layer for another number of classes than they were trained for keeps the values it was drawn
    with.

    Args:
        model: what `create_model` made of ``architecture``; changed in place.
        architecture: arguments of `create_model`.

    Raises:
        UsageError: timm has none, or they cannot be downloaded.
    """
    import timm

    name = str(architecture["name"])
    if name in BACKBONES:
        raise UsageError(
            f"model '{name}' has no pretrained weights: only timm's networks have. Name a file."
        )
    from robustprune.models.normalize import Normalized

    target = model.backbone if isinstance(model, Normalized) else model
    args = {key: value for key, value in architecture.items() if key not in NOT_ARGUMENTS}
    shape = {key: architecture[key] for key in ("num_classes", "in_chans") if key in architecture}
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UsageError(f"timm has no pretrained weights for model '{name}'. Name a file.")
    size = architecture.get("image_size")
    sized = {"img_size": size} if size is not None and config.fixed_input_size else {}
    try:
        filled = timm.create_model(name, pretrained=True, **shape, **sized, **args)
    except Exception as error:  # of the hub's client, about networks of any kind
        reason = first_line(error)
        raise UsageError(
            f"the pretrained weights of '{name}' could not be had: {reason} Download them "
            "elsewhere, and name their file."
        ) from error
    found = filled.state_dict()
    if config.num_classes != architecture.get("num_classes"):
        found |= {k: v for k, v in target.state_dict().items() if _in_head(k, config.classifier)}
    target.load_state_dict(found)


def _in_head(key: str, classifier: str | tuple[str, ...] | None) -> bool:
    heads = (classifier,) if isinstance(classifier, str) else classifier or ()
    return key.rpartition(".")[0] in heads


def class_names(name: str) -> list[str]:
    """The names of the classes that timm's weights for a model tell apart: WordNet ids.

    Empty if it has no weights, or they are of another data set than ImageNet and its subsets.
    """
    from timm.data.imagenet_info import infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_classes(name)})
    return names_of(subset) if subset else []


def names_of(subset: str) -> list[str]:
    """The names in ``imagenet-1k`` and others that timm knows; none if it does not know it."""
    from timm.data.imagenet_info import ImageNetInfo

    try:
        info: Any = ImageNetInfo(subset)
    except AssertionError:
        return []
    return list(info.label_names())


def num_classes(name: str) -> int | None:
    """How many classes timm's weights for a model tell apart; None if it has none."""
    import timm

    config = None if name in BACKBONES else timm.get_pretrained_cfg(name)
    return None if config is None or not config.has_weights else int(config.num_classes)
