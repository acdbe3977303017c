"""From a name to a network that takes images in [0, 1]. Weights are never downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustprune.errors import UsageError, nearest
from robustprune.models.catalogue import BACKBONES, backbones

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

NOT_ARGUMENTS = frozenset(
    {
        *("name", "num_classes", "in_chans", "image_size", "mean", "std"),
        *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("checkpoint_path", "cache_dir", "features_only"),
    }
)
"""What free-form arguments may not hold: our own options, and timm's for loading weights."""

_CONSTRUCTOR_ERRORS = (
    *(TypeError, ValueError, AssertionError, RuntimeError),
    *(AttributeError, LookupError, ArithmeticError),
)
"""What timm's constructors raise about a wrong argument, depending on who wrote them."""


def model_names() -> list[str]:
    """Every name that can be created: ours first, then timm's. Imports timm."""
    import timm

    return [*backbones(), *(name for name in timm.list_models() if name not in BACKBONES)]


def registered_by(module: str) -> list[str]:
    """The models that a module, full name, has registered with timm."""
    import timm

    return timm.list_models(module=module.rpartition(".")[2])


def check_name(name: str) -> None:
    """Make sure that a model is called ``name``; timm is imported only if none of ours is.

    Raises:
        UsageError: there is none; the message shows the nearest names.
    """
    if name in BACKBONES:
        return
    import timm

    if ":" in name or "/" in name or "\\" in name:
        raise UsageError(
            f"model '{name}' is a place to load from; give the name of an architecture instead, "
            "and load its weights as a checkpoint."
        )
    architecture = name.partition(".")[0]
    if architecture in BACKBONES or not timm.is_model(architecture):
        known = {*BACKBONES, *timm.list_models()}
        raise UsageError(f"unknown model '{name}'.{nearest(name, known)}")
    try:
        _config(name)
    except RuntimeError:  # of timm, for a tag that it does not know
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        raise UsageError(f"unknown model '{name}'.{nearest(name, (architecture, *tags))}") from None


def is_foreign(name: str) -> bool:
    """Whether a model was registered with timm by somebody else than timm and robustprune."""
    import timm

    architecture = name.partition(".")[0]
    if architecture in BACKBONES or not timm.is_model(architecture):
        return False
    return not timm.model_entrypoint(architecture).__module__.startswith("timm.")


def default_normalisation(name: str, in_chans: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each input channel if none are given.

    Ours and models of the user's take inputs as they are: mean 0, std 1. timm's take what its
    pretrained weights were trained with; for other than 3 channels, the average over those 3.
    """
    config = _config(name)
    if config is None:
        return [0.0] * in_chans, [1.0] * in_chans
    mean, std = list(config.mean), list(config.std)
    if len(mean) == in_chans:
        return mean, std
    return [sum(mean) / len(mean)] * in_chans, [sum(std) / len(std)] * in_chans


def normalisation(
    *,
    name: str,
    in_chans: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **_: Any,
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by which a network normalises its images.

    Args:
        name: as of `create_model`, like the others.
        in_chans: number of input channels.
        mean: of each channel, or None for the usual one.
        std: of each channel, or None.

    Raises:
        UsageError: they do not fit the channels.
    """
    usual = default_normalisation(name, in_chans)
    return (
        _statistic("mean", usual[0] if mean is None else mean, in_chans),
        _statistic("std", usual[1] if std is None else std, in_chans),
    )


def create_model(
    name: str,
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **args: Any,
) -> nn.Module:
    """A new network in training mode: images ``(n, in_chans, h, w)`` in [0, 1] to logits.

    Its weights are drawn from the global torch generator, which the caller forks. With mean 0 and
    std 1 the bare backbone is returned, so that parameters keep the names the field gives them;
    otherwise a `Normalized` one.

    Args:
        name: one of `backbones`, or any model that timm knows.
        num_classes: number of logits.
        in_chans: number of input channels.
        image_size: height and width of the images; used by models that are built for one size.
        mean: of each channel, subtracted first; see `default_normalisation`.
        std: of each channel, above 0; divided by.
        args: go to the model's constructor, e.g. ``drop_rate=0.1``.

    Raises:
        UsageError: unknown name, wrong argument, or statistics that do not fit the channels.
    """
    check_name(name)
    mean, std = normalisation(name=name, in_chans=in_chans, mean=mean, std=std)
    backbone = _backbone(name, args, num_classes=num_classes, in_chans=in_chans, size=image_size)
    if not any(mean) and all(value == 1 for value in std):
        return backbone
    from robustprune.models.normalize import Normalized

    return Normalized(backbone, mean=mean, std=std)


def image_size(architecture: Mapping[str, Any]) -> int:
    """Height and width of images that a network takes.

    Args:
        architecture: arguments of `create_model`; where they leave the size out, a usual one.
    """
    given: int | None = architecture.get("image_size")
    if given is not None:
        return given
    config = _config(str(architecture["name"]))
    return 32 if config is None else int(config.input_size[-1])


def _config(name: str) -> PretrainedCfg | None:
    """What timm knows of the weights it has for ``name``; nothing for ours and the user's own."""
    if name in BACKBONES:
        return None
    import timm

    config: PretrainedCfg | None = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return config


def _backbone(
    name: str, args: Mapping[str, Any], *, num_classes: int, in_chans: int, size: int | None
) -> nn.Module:
    import timm

    check_args(args)
    if name in BACKBONES:
        importlib.import_module(f"robustprune.models.{BACKBONES[name].module}")
    options = {**_size_option(name, size), **args}
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=in_chans, **options
        )
    except UsageError:
        raise
    except _CONSTRUCTOR_ERRORS as error:
        if not options:
            raise  # nothing that the user could correct
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise UsageError(
            f"model '{name}' cannot be built with {given}: {type(error).__name__}: {error}. "
            "Correct or remove what is wrong among the arguments of the model; in a recipe they "
            "are under model.args."
        ) from error
    return model


def _size_option(name: str, size: int | None) -> dict[str, int]:
    if size is None:
        return {}
    if name in BACKBONES:
        smallest, sized = BACKBONES[name].smallest, BACKBONES[name].sized
        if size < smallest:
            raise UsageError(f"model '{name}' needs images of at least {smallest}x{smallest}.")
        return {"image_size": size} if sized else {}
    config = _config(name)
    return {"img_size": size} if config is not None and config.fixed_input_size else {}


def check_args(args: Mapping[str, Any]) -> None:
    """Make sure that no free-form argument is one that has a place of its own, or loads weights.

    Raises:
        UsageError: names those that are.
    """
    wrong = sorted(NOT_ARGUMENTS & args.keys())
    if wrong:
        raise UsageError(
            f"model arguments may not hold {', '.join(wrong)}: they are options of the model "
            "itself, or would load weights; models are created without."
        )


def _statistic(label: str, values: Sequence[float], in_chans: int) -> list[float]:
    if len(values) != in_chans:
        raise UsageError(
            f"{label} {list(values)} has {len(values)} values for {in_chans} input channels; "
            "give one for each channel."
        )
    if label == "std" and not all(value > 0 for value in values):
        raise UsageError(f"std {list(values)} must be above 0 in every channel.")
    return [float(value) for value in values]
