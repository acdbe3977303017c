"""A network as a program of ``torch.export``."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustprune.artifacts.backends import Backend, register
from robustprune.artifacts.backends.base import example_images
from robustprune.artifacts.checksummed import ModelFile, canonical
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import UsageError, first_line


@register("pt2")
class Exported(Backend):
    """A graph of ``torch.export``, for torch without this network's code: any batch size.

    ``torch.export.load`` may unpickle what a file asks for, which can run code, so that files of
    others are never read here, and should be loaded only from those that you trust.
    """

    suffixes = (".pt2",)

    def write(self, network: SavedModel, path: Path) -> list[str]:
        """Write the graph with its weights; the metadata is its extra file ``robustprune.json``.

        Raises:
            UsageError: ``torch.export`` cannot trace the network.
        """
        batch = {0: torch.export.Dim("batch")}
        buffer = io.BytesIO()  # a path's name would stand in the file
        about: dict[str, Any] = {"robustprune.json": canonical(network.metadata)}
        try:
            images = (example_images(network, 2),)
            program = torch.export.export(network.model, images, dynamic_shapes=(batch,))
            torch.export.save(program, buffer, extra_files=about)
        except Exception as error:  # of a compiler, about anything that it cannot trace
            raise UsageError(
                f"torch.export cannot trace the network: {first_line(error)}"
            ) from error
        path.write_bytes(buffer.getvalue())
        return [
            f"A program of torch.export, written by torch {torch.__version__}; images in [0, 1], "
            "normalisation inside. torch.export.load can run code that a file brings along: load "
            "only files that you trust."
        ]

    @classmethod
    def read(cls, file: ModelFile) -> SavedModel:
        """Refuse a file: loading it could run code."""
        raise UsageError(
            f"{file.path} is a program of torch.export, which can run code when it is loaded, and "
            "is not read. Name the file that it was exported from."
        )

    def run(self, network: SavedModel, path: Path) -> Callable[[Tensor], Tensor]:
        """The program, loaded again from what was just written."""
        module: Callable[[Tensor], Tensor] = torch.export.load(path).module()
        return module

    def loading(self, network: SavedModel, path: Path) -> str:
        """Code that runs it."""
        return (
            f'model = torch.export.load("{path.name}").module()  # runs what it brings along\n'
            "logits = model(images)  # float32 (n, channels, height, width) in [0, 1]"
        )
