"""Run networks that `robustprune export --format sparse` wrote: numpy in, numpy out.

>>> import robustprune_runtime
>>> model = robustprune_runtime.load("net.sparse")
>>> logits = model(images)

Kernels of the network are compiled when it is first loaded on a machine, and kept in a folder of
the user's.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .kernels.file import FileError, read
from .kernels.jit import Unavailable
from .kernels.lower import Unsupported
from .kernels.program import Program

__all__ = ["FileError", "Model", "Unavailable", "Unsupported", "load"]


class Model:
    """A network that can be called, from several threads, too.

    Attributes:
        shape: of one image, (C, H, W).
        classes: names of the outputs in their order; None where the file does not say.
        metadata: where the network comes from and what was measured of it, as robustprune's model
            files say it.
    """

    def __init__(self, program: Program, shape: tuple[int, ...], metadata: dict[str, Any]) -> None:
        self.shape, self.metadata = shape, metadata
        self.classes: list[str] | None = None
        names = metadata.get("classes")
        if isinstance(names, list) and len(names) == program.output_shape[0]:
            self.classes = [str(name) for name in names]
        self._program = program

    def __call__(self, images: ArrayLike) -> NDArray[np.float32]:
        """Logits ``(N, classes)``.

        Args:
            images: ``(N, C, H, W)`` in [0, 1], floats. The network normalises them itself.

        Raises:
            ValueError: they are of another shape or type.
        """
        found = np.asarray(images)
        if found.shape[1:] != self.shape:
            raise ValueError(f"images have shape {found.shape}, not (N, {str(self.shape)[1:]}")
        if found.dtype.kind != "f":
            raise ValueError(f"images are of type {found.dtype}, not float32 in [0, 1]")
        return self._program(np.ascontiguousarray(found, np.float32))


def load(path: str | PathLike[str], threads: int = 1) -> Model:
    """The network in a file.

    Args:
        path: what ``robustprune export --format sparse`` wrote. It may be anybody's: its sizes are
            checked before memory is taken, and nothing in it is executed.
        threads: that compute.

    Raises:
        FileError: it is missing, damaged or no such file.
        Unavailable: this machine cannot run the kernels.
        Unsupported: the kernels cannot compute what it says.
    """
    operations, shape, metadata = read(Path(path))
    return Model(Program(operations, shape, threads=threads), shape, metadata)
