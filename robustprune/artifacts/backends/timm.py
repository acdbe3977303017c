"""A network as a state dict for timm, under timm's own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from robustprune.artifacts.backends import Backend, register
from robustprune.artifacts.checksummed import ModelFile, write_checksummed
from robustprune.artifacts.saved import Outline, SavedModel, tensors_of
from robustprune.artifacts.state_dict import INSIDE
from robustprune.artifacts.surgery import KEY as SURGERY
from robustprune.errors import UsageError
from robustprune.models import BACKBONES, create_model, image_size
from robustprune.models.factory import Normalized, is_foreign, normalisation, size_option

_LAYOUT = {"layout": "timm"}


@register("timm")
class Timm(Backend):
    """A state dict that ``timm.create_model`` loads: timm's names, masks baked, zeros and all."""

    suffixes = (".timm.safetensors", ".safetensors")
    normalises = False

    normalisation: Literal["outside", "inside"] = "outside"
    """``outside``: whoever runs the network normalises its images first, by the mean and deviation
    that the file's metadata and its card state. ``inside`` is refused of a network that normalises
    them: timm's have no layer for it."""

    def write(self, network: SavedModel, path: Path) -> list[str]:
        """Write the backbone's state dict, and how images are normalised as metadata.

        Raises:
            UsageError: timm cannot build the network, or it normalises and must not.
        """
        architecture = network.metadata["model"]
        if network.metadata.get(SURGERY):
            raise UsageError(
                f"{path.name} was not written: channels were cut out of the network, and timm "
                "builds whole ones only. Export packed, onnx or sparse."
            )
        inside = isinstance(network.model, Normalized)
        mean, std = normalisation(**architecture)
        if inside and self.normalisation == "inside":
            raise UsageError(
                f"timm's networks have no layer that normalises images (mean {mean}, deviation "
                f"{std}). Export timm:normalisation=outside and normalise before the network, or "
                "dense, whose names are normalize.… and backbone.…."
            )
        tensors = {n.removeprefix(INSIDE): t for n, t in tensors_of(_backbone(network)).items()}
        masked = sorted(name.removeprefix(INSIDE) for name in network.masks)
        about = {"masked": masked, "timm": config(architecture)}
        write_checksummed(path, tensors, network.metadata | _LAYOUT | about)
        notes = []
        if not is_timms(architecture):
            notes.append(
                f"timm does not know '{architecture['name']}': this is its plain state dict, which "
                "robustprune.create_model builds a network for."
            )
        if inside:
            notes.append(
                "It takes images that are normalised outside, (x - mean) / std of x in [0, 1], "
                f"mean {mean} and deviation {std}: what was measured holds behind that only."
            )
        return notes

    @classmethod
    def recognises(cls, file: ModelFile) -> bool:
        """True of a safetensors file that says so."""
        return _LAYOUT.items() <= (file.document or {}).items()

    @classmethod
    def read(cls, file: ModelFile) -> SavedModel:
        """Read a file of `write`, its normalisation inside again."""
        metadata, tensors = file.checksummed()
        del metadata["layout"]
        metadata.pop("timm", None)
        outline = Outline(file.path, metadata, tensors=len(tensors))
        prefix = INSIDE if isinstance(outline.model, Normalized) else ""
        metadata["masked"] = [f"{prefix}{name}" for name in metadata.get("masked", [])]
        named = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
        return outline.rebuild(named, outline.nonzero_masks(named))

    def run(self, network: SavedModel, path: Path) -> Callable[[Tensor], Tensor]:
        """The architecture without normalisation, loaded strictly, behind normalised images."""
        architecture = network.metadata["model"]
        mean, std = normalisation(**architecture)
        bare = architecture | {"mean": [0.0] * len(mean), "std": [1.0] * len(std)}
        with torch.random.fork_rng(devices=[]):
            model = create_model(**bare).eval()
        model.load_state_dict(load_file(path), strict=True)
        shift, scale = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        return lambda images: model((images - shift) / scale)

    def loading(self, network: SavedModel, path: Path) -> str:
        """Code that loads it by timm."""
        architecture = network.metadata["model"]
        if not is_timms(architecture):
            return super().loading(network, path)
        arguments = _arguments(architecture)
        name = arguments.pop("name")
        given = "".join(f", {key}={value!r}" for key, value in arguments.items())
        code = f'model = timm.create_model("{name}"{given}, checkpoint_path="{path.name}").eval()\n'
        if not isinstance(network.model, Normalized):
            return code + "logits = model(images)  # in [0, 1]"
        mean, std = normalisation(**architecture)
        return (
            f"{code}mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in ({mean}, {std}))\n"
            "logits = model((images - mean) / std)  # images in [0, 1]"
        )


def _backbone(network: SavedModel) -> torch.nn.Module:
    model = network.model
    return model.backbone if isinstance(model, Normalized) else model


def is_timms(architecture: Mapping[str, Any]) -> bool:
    """True of a network that timm has without robustprune."""
    return architecture["name"] not in BACKBONES and not is_foreign(architecture["name"])


def _arguments(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``timm.create_model``."""
    others = {k: v for k, v in architecture.items() if k not in ("image_size", "mean", "std")}
    return others | size_option(architecture["name"], architecture.get("image_size"))


def config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """What timm keeps in a ``config.json`` beside weights, of a network of ``create_model``."""
    mean, std = normalisation(**architecture)
    arguments = _arguments(architecture)
    classes, channels = arguments.pop("num_classes", 10), arguments.pop("in_chans", 3)
    size = image_size(architecture)
    preprocessing = {"input_size": [channels, size, size], "mean": mean, "std": std}
    return {
        "architecture": arguments.pop("name").partition(".")[0],
        "num_classes": classes,
        "model_args": arguments | {"in_chans": channels},
        "pretrained_cfg": {**preprocessing, "num_classes": classes},
    }
