"""The base of backends: a format, how it is written, read again and checked."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustprune.artifacts.checksummed import ModelFile
from robustprune.artifacts.saved import SavedModel
from robustprune.components import Part
from robustprune.errors import MissingDependencyError, UsageError, first_line
from robustprune.files import replacing
from robustprune.models import image_size

CERTIFICATES = {"ibp", "crown_ibp", "crown", "alpha_crown", "verified"}
"""Evaluators that bound a network itself, by name."""

MEASURED = ("metrics", "alarms", "split")
"""Keys of the metadata that hold what evaluators found."""

_BATCHES = (1, 7)  # sizes that a file is tried with


class Backend(Part):
    """A format of files that networks are exported to; its fields are options of ``export``.

    A backend of one's own defines `suffixes`, which are no other backend's, and `write`; and `read`
    or `run`, without which its files are not checked.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Endings of its files' names; the first is put behind a name that is not given."""

    normalises: ClassVar[bool] = True
    """False if its files hold the network behind the normalisation only."""
    calibrated: ClassVar[bool] = False
    """True if writing needs training images, so that ``--data`` and ``--root`` say which."""

    @property
    def exact(self) -> bool:
        """True if what was measured of a network, and proved, holds for its files."""
        return True

    def metadata(self, network: SavedModel) -> dict[str, Any]:
        """What a file says of its network: nothing that was measured of another one."""
        left_out = () if self.exact else MEASURED
        return {key: value for key, value in network.metadata.items() if key not in left_out}

    @property
    def tolerance(self) -> float:
        """Largest difference of logits with which a file is good, as a share of their size."""
        return 1e-4

    def write(self, network: SavedModel, path: Path) -> Sequence[str]:
        """Write a file, and return what a reader of it must know, a sentence each.

        Args:
            network: plain, in eval mode; its ``metadata["model"]`` says what images it takes.
            path: in a folder of its own; it takes its place when the file has been checked.

        Raises:
            UsageError: the network cannot be written so.
        """
        raise TypeError(f"{type(self).__name__} must define write(network, path)")

    @classmethod
    def recognises(cls, file: ModelFile) -> bool:
        """True of a file that is for `read`; by its name, if nothing else is said."""
        return file.path.name.endswith(cls.suffixes)

    @classmethod
    def read(cls, file: ModelFile) -> SavedModel | None:
        """The network in a file that is recognised; None where such files are for others only.

        The file is anybody's: nothing in it may be executed, and its sizes are checked before
        memory is taken; see `robustprune.artifacts.saved.Outline`. A `UsageError` refuses it.
        """
        return None

    def run(self, network: SavedModel, path: Path) -> Callable[[Tensor], Tensor] | None:
        """Function that a written file computes, compared with the network; `read` by default.

        From images ``(n, channels, height, width)`` in [0, 1] to logits ``(n, classes)``, or None.
        """
        found = self.read(ModelFile(path))
        return None if found is None else found.model

    def loading(self, network: SavedModel, path: Path) -> str:
        """Code that loads a file, for its model card."""
        return f'model = robustprune.load_model("{path.name}")'

    @classmethod
    def library(cls, name: str) -> Any:
        """An optional library; `MissingDependencyError` says how it is installed."""
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise MissingDependencyError(
                f"format '{cls.registered_name}' needs {name}, which cannot be imported ({error}). "
                f"Install it with\n    {cls.install}"
            ) from None

    def export(self, network: SavedModel, path: Path) -> list[str]:
        """Write a network, whole and right, or not at all, and return notes on the file.

        The written file is run on random images, where that is possible, and its logits are
        compared with the network's.

        Raises:
            UsageError: the network cannot be written so, or the file gives other logits.
        """
        name = self.registered_name
        if not path.name.endswith(self.suffixes):
            endings = " or ".join(self.suffixes)
            raise UsageError(f"{path}: a file of format '{name}' ends in {endings}.")
        if getattr(network.model, "quantised", False):
            raise UsageError(
                "the network is quantised already. Export the one that it was made from."
            )
        for library in self.libraries:
            self.library(library)
        images = [example_images(network, batch) for batch in _BATCHES]
        try:
            with torch.no_grad():
                expected = torch.cat([network.model(batch) for batch in images])
        except Exception as error:  # of any network
            size = "×".join(map(str, images[0].shape[1:]))
            raise UsageError(
                f"the network does not take images of {size}, with which files are tried "
                f"({first_line(error)}). Say what its images are: --data NAME."
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            notes = list(self.write(network, draft))
            if (run := self.run(network, draft)) is None:
                notes.append("The file was not run: its logits were not compared with any.")
            else:
                with torch.no_grad():
                    found = torch.cat([run(batch) for batch in images])
                difference = float((found - expected).abs().max())
                if not difference <= self.tolerance * max(1.0, float(expected.abs().max())):
                    raise UsageError(
                        f"a file of format '{name}' gives other logits than the network, by "
                        f"{difference:.3g}: nothing was written. Export another format, and "
                        "please report it."
                    )
                if difference:
                    notes.append(
                        "On random images its logits differ from the network's by at most "
                        f"{difference:.1e}."
                    )
            with replacing(path) as temporary:
                os.replace(draft, temporary)
        return notes


def example_images(network: SavedModel, batch: int) -> Tensor:
    """Random images of the size that a network takes, ``(batch, channels, height, width)``."""
    architecture = network.metadata["model"]
    size = image_size(architecture)
    generator = torch.Generator().manual_seed(batch)
    images = torch.rand(batch, architecture.get("in_chans", 3), size, size, generator=generator)
    return images.to(next(network.model.parameters(), images).dtype)
