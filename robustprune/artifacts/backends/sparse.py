"""A network as a sparse file: what kernels run, and nothing else. `kernels.file` describes it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from robustprune import kernels
from robustprune.artifacts.backends import Backend, register
from robustprune.artifacts.backends.base import example_images
from robustprune.artifacts.checksummed import ModelFile
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import UsageError
from robustprune.inference.graph import operations_of
from robustprune.kernels import Unavailable, Unsupported
from robustprune.kernels import file as sparse_file


@register("sparse")
class Sparse(Backend):
    """A small file that robustprune-runtime runs fast on CPUs, without torch; for nothing else."""

    suffixes = (sparse_file.SUFFIX,)
    libraries = ("llvmlite",)
    install = "pip install llvmlite"

    def write(self, network: SavedModel, path: Path) -> list[str]:
        """Write the network's operations, norms folded, and the weights that are not zero.

        Raises:
            UsageError: it has operations that the kernels do not know; they are named.
        """
        images, model = example_images(network, 2).float(), network.model
        if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
            model = copy.deepcopy(model).float()
        operations = operations_of(model, images)
        try:
            sparse_file.write(path, operations, tuple(images.shape[1:]), network.metadata)
        except ValueError as error:
            raise UsageError(f"{path.name} was not written: {error}.") from None
        return ["For robustprune-runtime: norms are folded, and nothing can be trained further."]

    @classmethod
    def read(cls, file: ModelFile) -> SavedModel:
        """Refuse a file: it is for running, and no network of layers can be rebuilt from it."""
        raise UsageError(
            f"{file.path} is for running, by robustprune-runtime: its layers have no names, and "
            "norms are folded. Name the file that it was exported from."
        )

    def run(self, network: SavedModel, path: Path) -> Callable[[Tensor], Tensor]:
        """The operations of a written file in the kernels."""
        try:
            operations, shape, _ = sparse_file.read(path)
            program = kernels.Program(operations, shape)
        except (sparse_file.FileError, Unavailable, Unsupported) as error:
            raise UsageError(f"what was written cannot be run here: {error}") from None
        return lambda images: torch.from_numpy(program(images.float().contiguous().numpy()))

    def loading(self, network: SavedModel, path: Path) -> str:
        """Code that runs it."""
        return (
            f'model = robustprune_runtime.load("{path.name}")\n'
            "logits = model(images)  # numpy, float32 (n, channels, height, width) in [0, 1]"
        )
