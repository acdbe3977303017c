"""timm's own pretrained weights, from its cache or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from robustprune.errors import UsageError, first_line
from robustprune.models.architectures import BACKBONES
from robustprune.models.factory import Normalized, load_timm, size_option

NAME = "pretrained"
"""The value of ``weights`` that means timm's."""


def load_into(model: nn.Module, architecture: Mapping[str, Any]) -> None:
    """Give a network, made by `create_model` of ``architecture``, the weights that timm has for it.

    A model's tag (``resnet50.a1_in1k``) names which; without one they are timm's default. A last
    layer for another number of classes than they were trained for keeps the values it was drawn
    with.

    Raises:
        UsageError: timm has none, or they cannot be downloaded.
    """
    name = str(architecture["name"])
    if (config := _weights(name)) is None:
        raise UsageError(
            f"model '{name}' has no pretrained weights: only timm's networks have, and not all of "
            "them. Name a file."
        )
    passed = architecture.keys() - {"name", "image_size", "mean", "std"}
    options = size_option(name, architecture.get("image_size"))
    options |= {key: architecture[key] for key in passed}
    try:
        found = load_timm().create_model(name, pretrained=True, **options).state_dict()
    except Exception as error:  # of the hub's client, about networks of any kind
        raise UsageError(
            f"the pretrained weights of '{name}' could not be had: {first_line(error)} Download "
            "them elsewhere, and name their file."
        ) from error
    target = model.backbone if isinstance(model, Normalized) else model
    if config.num_classes != architecture.get("num_classes"):
        last = config.classifier or ()
        heads = (last,) if isinstance(last, str) else last
        own = target.state_dict()
        found |= {key: own[key] for key in own if key.rpartition(".")[0] in heads}
    target.load_state_dict(found)


def class_names(name: str) -> list[str]:
    """The names of the classes that timm's weights for a model tell apart: WordNet ids.

    Empty if it has no weights, or they are of another data set than ImageNet and its subsets.
    """
    subset = load_timm().data.infer_imagenet_subset({"num_classes": num_classes(name)})
    return names_of(subset) if subset else []


def names_of(subset: str) -> list[str]:
    """The names in ``imagenet-1k`` and others that timm knows; none if it does not know it."""
    try:
        return list(load_timm().data.ImageNetInfo(subset).label_names())
    except AssertionError:
        return []


def num_classes(name: str) -> int | None:
    """The number of classes that timm's weights for a model tell apart; None if it has none."""
    config = _weights(name)
    return None if config is None else int(config.num_classes)


def _weights(name: str) -> Any:
    """The `PretrainedCfg` of a model that timm has weights for; None of others."""
    config = None if name in BACKBONES else load_timm().get_pretrained_cfg(name)
    return config if config is not None and config.has_weights else None
