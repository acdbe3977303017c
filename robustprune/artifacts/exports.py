"""Networks in the formats that others read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robustprune.artifacts.normalisation import folded
from robustprune.artifacts.onnx import save_onnx
from robustprune.artifacts.packed import Values, save_packed
from robustprune.artifacts.saved import SavedModel, tensors_of
from robustprune.artifacts.sealed import write_sealed
from robustprune.artifacts.state_dict import INSIDE, MEAN, STD
from robustprune.artifacts.surgery import KEY as SURGERY
from robustprune.errors import UsageError
from robustprune.files import replacing
from robustprune.models import image_size
from robustprune.models.factory import default_normalisation
from robustprune.models.normalize import Normalized

Format = Literal["dense", "packed", "onnx"]
Normalisation = Literal["fold", "inside"]

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "dense": (".state.safetensors", ".safetensors", ".pt", ".pth"),
    "packed": (".packed.safetensors", ".safetensors"),
    "onnx": (".onnx",),
}
"""How a file's name may end in each format; first what is put behind a name that is not given."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file.
        format: its format.
        bytes: its size.
        notes: what a reader of the file must know, a sentence each.
        model: the arguments of `create_model` for the network in it, which a folded normalisation
            makes others than those of the network that was exported.
    """

    path: Path
    format: Format
    bytes: int
    notes: tuple[str, ...]
    model: dict[str, Any]


def export(
    saved: SavedModel,
    path: Path,
    *,
    format: Format,
    values: Values = "fp32",
    normalisation: Normalisation = "fold",
) -> Export:
    """Write a network in one of the formats.

    Args:
        saved: the network.
        path: ends as `SUFFIXES` has it.
        format: ``dense``, a plain state dict; ``packed``, about as small as what it keeps; or
            ``onnx``, for other runtimes.
        values: for ``packed``: how the weights of convolutions and linear layers are kept.
        normalisation: for ``dense``, where the network normalises its images: ``fold`` that into
            its first layer, or write the ``inside`` of it beside a stated mean and deviation.

    Raises:
        UsageError: the file's name does not end right, or the network cannot be written so.
    """
    if not path.name.endswith(SUFFIXES[format]):
        raise UsageError(
            f"{path}: a file of format '{format}' ends in {' or '.join(SUFFIXES[format])}."
        )
    model = saved.metadata["model"]
    if format == "packed":
        halved = save_packed(path, saved, values=values)
        notes: tuple[str, ...] = (_HALF,) if halved else ()
    elif format == "onnx":
        notes = (_ONNX.format(save_onnx(path, saved)),)
    else:
        model, notes = _save_state_dict(path, saved, normalisation)
    return Export(path, format, path.stat().st_size, notes, model)


_HALF = (
    "Weights of convolutions and linear layers are rounded to half precision: what was measured of "
    "the network was measured before that."
)
_ONNX = (
    "On random images the logits of ONNX Runtime differ from PyTorch's by at most {:.1e}. Input "
    "'images', (batch, channels, height, width) in [0, 1]; output 'logits'; normalisation inside."
)
_INSIDE = (
    "The network takes images in [0, 1] and normalises them itself: (x - normalize.mean) / "
    "normalize.std, channel by channel, mean {} and deviation {}; the tensors of the network "
    "behind that are called backbone.…"
)
_FOLDED = (
    "The normalisation of the images is folded into layer '{}': the network takes images in [0, 1] "
    "and gives the same logits up to rounding. Read again, its mean is 0 and its std 1."
)


def _save_state_dict(
    path: Path, saved: SavedModel, how: Normalisation
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write the state dict alone, under the names that the field gives to its tensors.

    Returns:
        The arguments of `create_model` for the network that was written, and notes on it.
    """
    model, metadata = saved.model, dict(saved.metadata)
    notes: tuple[str, ...] = ()
    masked = set(saved.masks)
    if metadata.get(SURGERY) and path.suffix != ".safetensors":
        raise UsageError(
            f"{path} cannot say what was cut out of its network, so that no architecture would "
            "take its tensors. Write a .safetensors."
        )
    tensors: Mapping[str, Tensor] = tensors_of(model)
    if isinstance(model, Normalized):
        mean, std = model.normalize.mean, model.normalize.std
        if how == "inside":
            tensors = {MEAN: mean, STD: std, **tensors}
            shown = (mean.flatten().tolist(), std.flatten().tolist())
            notes = (_INSIDE.format(*([round(v, 6) for v in values] for values in shown)),)
        else:
            _check_known(path, metadata["model"])
            bare, layer = folded(model, image_size=image_size(metadata["model"]))
            tensors, notes = bare.state_dict(), (_FOLDED.format(layer),)
            masked = {name.removeprefix(INSIDE) for name in masked}
            if SURGERY in metadata:
                metadata[SURGERY] = [
                    {**cut, "layer": cut["layer"].removeprefix(INSIDE)} for cut in metadata[SURGERY]
                ]
            identity = {"mean": [0.0] * mean.numel(), "std": [1.0] * mean.numel()}
            metadata["model"] = {**metadata["model"], **identity}
    document = metadata | {"layout": "state_dict", "masked": sorted(masked)}
    if path.suffix == ".safetensors":
        write_sealed(path, tensors, document)
    else:  # tensors and names only: torch.load takes it with weights_only
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        buffer = io.BytesIO()  # a path's name would stand in the file
        torch.save(content, buffer)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())
    return metadata["model"], notes


def _check_known(path: Path, architecture: Mapping[str, Any]) -> None:
    """Make sure that whoever loads a folded network by its name does not normalise it again."""
    usual = default_normalisation(architecture["name"], architecture.get("in_chans", 3))
    plain = not any(usual[0]) and set(usual[1]) == {1.0}
    if path.suffix != ".safetensors" and not plain:
        raise UsageError(
            f"{path} cannot say that the normalisation is folded into its network, and "
            f"'{architecture['name']}' normalises unless told otherwise, so that images would be "
            "normalised twice. Write a .safetensors, or state it: --normalisation inside."
        )
