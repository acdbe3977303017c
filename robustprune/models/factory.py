"""From a name to a network that takes images in [0, 1]. Weights are never downloaded."""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.errors import UsageError, nearest
from robustprune.models.architectures import BACKBONES

_NOT_ARGUMENTS = {
    *("name", "num_classes", "in_chans", "image_size", "mean", "std"),
    *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
    *("checkpoint_path", "cache_dir", "features_only"),
}


class Normalize(nn.Module):
    """``(x - mean) / std``, channel by channel, for ``x`` of shape ``(n, channels, …)``.

    The statistics are options of the model and are rebuilt from them, so they are no part of the
    state dict: weights from elsewhere cannot change what the network's input means.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            buffer = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1] to the range the backbone was made for; same shape."""
        return (images - self.mean) / self.std


class Normalized(nn.Sequential):
    """A backbone behind its normalisation: images ``(n, c, h, w)`` in [0, 1] to logits."""

    normalize: Normalize
    backbone: nn.Module

    def __init__(self, backbone: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(OrderedDict(normalize=Normalize(mean, std), backbone=backbone))


def load_timm() -> ModuleType:
    """Import timm, which takes seconds that our own backbones do not need."""
    return importlib.import_module("timm")


def model_names() -> list[str]:
    """Every name that can be created: ours first, then timm's."""
    return [*sorted(BACKBONES), *(n for n in load_timm().list_models() if n not in BACKBONES)]


def registered_by(module: str) -> list[str]:
    """The models that a module, full name, has registered with timm."""
    if "timm" not in sys.modules:
        return []
    names: list[str] = load_timm().list_models(module=module.rpartition(".")[2])
    return names


def is_foreign(name: str) -> bool:
    """Tell whether a model was registered by somebody else than timm and robustprune."""
    architecture = name.partition(".")[0]
    if architecture in BACKBONES or not load_timm().is_model(architecture):
        return False
    return not load_timm().model_entrypoint(architecture).__module__.startswith("timm.")


def check_name(name: str) -> str:
    """Return ``name`` if a model is called so; timm is imported only if none of ours is.

    Raises:
        UsageError: there is none; the message shows the nearest names.
    """
    if name in BACKBONES:
        return name
    if ":" in name or "/" in name or "\\" in name:
        raise UsageError(
            f"model '{name}' is a place to load from; give the name of an architecture instead, "
            "and load its weights as a checkpoint."
        )
    timm, architecture = load_timm(), name.partition(".")[0]
    choices = model_names()
    if architecture not in BACKBONES and timm.is_model(architecture):
        try:
            _config(name)
        except RuntimeError:  # of timm, for a tag that it does not know
            choices = [architecture, *timm.list_models(f"{architecture}.*", pretrained=True)]
        else:
            return name
    raise UsageError(f"unknown model '{name}'.{nearest(name, choices)}")


def check_args(args: dict[str, Any]) -> dict[str, Any]:
    """Return free-form arguments, none of which is an option of its own or loads weights.

    Raises:
        UsageError: names those that are.
    """
    if wrong := sorted(_NOT_ARGUMENTS & args.keys()):
        raise UsageError(
            f"model arguments may not hold {', '.join(wrong)}: they are options of the model "
            "itself, or would load weights; models are created without."
        )
    return args


def normalisation(
    name: str,
    in_chans: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **_: Any,
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by which a network normalises each channel of its images.

    The arguments are those of `create_model`. Where they leave statistics out, ours and models of
    the user's take inputs as they are: mean 0, std 1. timm's take what its pretrained weights were
    trained with; for other than 3 channels, the average over those 3.

    Raises:
        UsageError: they do not fit the channels.
    """
    config, found = _config(name), []
    for label, values in (("mean", mean), ("std", std)):
        if values is None:
            usual = [float(label == "std")] if config is None else getattr(config, label)
            values = usual if len(usual) == in_chans else [sum(usual) / len(usual)] * in_chans
        if len(values) != in_chans:
            raise UsageError(
                f"{label} {list(values)} has {len(values)} values for {in_chans} input channels; "
                "give one for each channel."
            )
        if label == "std" and not all(value > 0 for value in values):
            raise UsageError(f"std {list(values)} must be above 0 in every channel.")
        found.append([float(value) for value in values])
    return found[0], found[1]


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
    otherwise a `Normalized` one. Its attribute ``created_with`` holds the arguments, resolved.

    Args:
        name: one of `BACKBONES`, or any model that timm knows.
        num_classes: number of logits.
        in_chans: number of channels.
        image_size: height and width of the images; used by models that are built for one size.
        mean: of each channel, subtracted first; see `normalisation`.
        std: of each channel, above 0; divided by.
        args: go to the model's constructor, e.g. ``drop_rate=0.1``.

    Raises:
        UsageError: unknown name, wrong argument, or statistics that do not fit the channels.
    """
    check_name(name)
    mean, std = normalisation(name, in_chans, mean, std)
    options = size_option(name, image_size) | check_args(args)
    given = {"num_classes": num_classes, "in_chans": in_chans, **options}
    try:
        if name in BACKBONES:
            backbone = BACKBONES[name].build(**given)
        else:
            backbone = load_timm().create_model(name, pretrained=False, **given)
    except Exception as error:  # constructors raise many kinds about a wrong argument
        if not options:
            raise  # there is nothing that the user could correct
        told = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise UsageError(
            f"model '{name}' cannot be built with {told}: {type(error).__name__}: {error}. "
            "Correct or remove what is wrong among the arguments of the model; in a recipe they "
            "are under model.args."
        ) from error
    bare = not any(mean) and all(value == 1 for value in std)
    model = backbone if bare else Normalized(backbone, mean=mean, std=std)
    sizes = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    # a plain attribute, so that what is made of the network can say how it is built again
    model.created_with = {"name": name, **sizes, "mean": mean, "std": std, **args}  # type: ignore[assignment]
    return model


def image_size(architecture: Mapping[str, Any]) -> int:
    """Height and width of images that `create_model`'s network takes; a usual one if not given."""
    if size := architecture.get("image_size"):
        return int(size)
    config = _config(architecture["name"])
    return 32 if config is None else int(config.input_size[-1])


def size_option(name: str, size: int | None) -> dict[str, Any]:
    """The argument by which a model's constructor is told the images' size, if it has one."""
    if size is None:
        return {}
    if name in BACKBONES:
        smallest, sized = BACKBONES[name].smallest, BACKBONES[name].sized
        if size < smallest:
            fit = [one for one, about in BACKBONES.items() if about.smallest <= size]
            raise UsageError(
                f"model '{name}' needs images of at least {smallest}x{smallest}, and these are "
                f"{size}x{size}. Choose another one, such as {', '.join(fit[:4])}, or other images."
            )
        return {"image_size": size} if sized else {}
    config = _config(name)
    return {"img_size": size} if config is not None and config.fixed_input_size else {}


def _config(name: str) -> Any:
    """The `PretrainedCfg` that timm has of a model; None for ours and for the user's own."""
    if name in BACKBONES:
        return None
    return load_timm().get_pretrained_cfg(name, allow_unregistered=True)
