"""A network as a plain state dict, under the names the field gives to its tensors."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn

from robustprune.artifacts.backends import Backend, register
from robustprune.artifacts.checksummed import ModelFile, write_checksummed
from robustprune.artifacts.saved import Outline, SavedModel, tensors_of
from robustprune.artifacts.state_dict import MEAN, STD, check_statistics, read_state_dict, shown
from robustprune.artifacts.surgery import KEY as SURGERY
from robustprune.errors import UsageError
from robustprune.models.factory import Normalized

LAYOUT = {"layout": "state_dict"}
"""Metadata of a plain state dict that names its architecture."""


@register("dense")
class Dense(Backend):
    """A plain state dict, zeros and all, for ``load_state_dict``: ``.safetensors`` or ``.pt``."""

    suffixes = (".state.safetensors", ".safetensors", ".pt", ".pth")

    def write(self, network: SavedModel, path: Path) -> list[str]:
        """Write the state dict; of a network that normalises, with the mean and the deviation.

        Raises:
            UsageError: the file could not say what was cut out of the network.
        """
        tensors, notes = tensors_of(network.model), []
        if isinstance(network.model, Normalized):
            mean, std = network.model.normalize.mean, network.model.normalize.std
            tensors = {MEAN: mean, STD: std, **tensors}
            notes = [
                "The network takes images in [0, 1] and normalises them itself: "
                "(x - normalize.mean) / normalize.std, channel by channel, mean "
                f"{shown(mean)} and deviation {shown(std)}; the tensors of the network behind "
                "that are called backbone.…"
            ]
        if path.suffix == ".safetensors":
            document = network.metadata | LAYOUT | {"masked": sorted(network.masks)}
            write_checksummed(path, tensors, document)
            return notes
        if network.metadata.get(SURGERY):
            raise UsageError(
                f"{path.name} cannot say what was cut out of its network, so that no architecture "
                "would take its tensors. Write a .safetensors."
            )
        # tensors and names only: torch.load takes it with weights_only
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        buffer = io.BytesIO()  # a path's name would stand in the file
        torch.save(content, buffer)
        path.write_bytes(buffer.getvalue())
        return notes

    @classmethod
    def recognises(cls, file: ModelFile) -> bool:
        """True of a safetensors file that says so; a ``.pt`` is anybody's state dict."""
        return LAYOUT.items() <= (file.document or {}).items()

    @classmethod
    def read(cls, file: ModelFile) -> SavedModel:
        """Read a ``.safetensors`` of `write`; its masks are where pruned tensors are not zero."""
        metadata, tensors = file.checksummed()
        del metadata["layout"]
        outline = Outline(file.path, metadata, tensors=len(tensors))
        beside = ({MEAN, STD} & tensors.keys()) - outline.state.keys()
        said = {name: tensors.pop(name) for name in beside}
        check_statistics(file.path, metadata["model"], said)
        return outline.rebuild(tensors, outline.nonzero_masks(tensors))

    def run(self, network: SavedModel, path: Path) -> nn.Module:
        """The network that is read again, a ``.pt`` for the architecture that it is of."""
        file = ModelFile(path)
        if self.recognises(file):
            return self.read(file).model
        return read_state_dict(file, network.metadata["model"]).model

    def loading(self, network: SavedModel, path: Path) -> str:
        """Code that loads it; a ``.pt`` needs the architecture, too."""
        if path.suffix == ".safetensors":
            return super().loading(network, path)
        model = network.metadata["model"]
        arguments = ", ".join(f"{key}={value!r}" for key, value in model.items())
        return (
            f'tensors = torch.load("{path.name}", weights_only=True)\n'
            "model.load_state_dict(tensors, strict=True)\n"
            f'# or: robustprune.load_model("{path.name}", {arguments})'
        )
