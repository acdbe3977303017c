"""What an evaluator has judged so far, on disk, so that one who is killed goes on from there."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from robustprune.artifacts.metadata import canonical
from robustprune.artifacts.sealed import digest, read_sealed, write_sealed
from robustprune.errors import UsageError
from robustprune.evaluators.omissions import Omission, Omissions
from robustprune.pipeline.shared import code_digest, library_versions

if TYPE_CHECKING:
    from robustprune.datasets.source import Source
    from robustprune.evaluators import Evaluator
    from robustprune.evaluators.base import PerImage

_FILES = "[0-9]*.safetensors"
_DRAFTS = ".[0-9]*.safetensors.*.tmp"


class JudgedBatch(NamedTuple):
    """What became of the images of one batch.

    Attributes:
        number: the batch's.
        labels: ``(n,)``, int64.
        images: tensors of length n by name.
        omissions: what the evaluator left out.
    """

    number: int
    labels: Tensor
    images: PerImage
    omissions: Omissions


@dataclass(frozen=True)
class Subject:
    """What evaluators judge: a network, and the images that it is shown.

    Attributes:
        model: baked, on its device.
        test: the images; None if the dataset has none.
        network: the network's name, it seeds the draws.
        seed: the recipe's.
        about: what else tells networks of the same tensors apart, as JSON values.
    """

    model: nn.Module
    test: Source | None
    network: str
    seed: int
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Of all that the bits of a verdict depend on, beside the evaluator; computed once."""
        tensors = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        devices = sorted({tensor.device.type for tensor in tensors.values()})
        facts = {
            "network": self.network,
            "seed": self.seed,
            "about": dict(self.about),
            "images": None if self.test is None else [len(self.test), self.test.digest()],
            "devices": devices,
            "libraries": {"torch": torch.__version__, **library_versions("torchattacks")},
            "code": code_digest(),
        }
        return digest(tensors, facts)


class EvaluationProgress:
    """A folder with a file for each batch that one evaluator has judged.

    A file that is damaged, or about something else, counts for nothing: its batch is judged again.

    Args:
        folder: where the files are; made when the first one is written.
        subject: what is judged.
        evaluator: by whom.
    """

    def __init__(self, folder: Path, subject: Subject, evaluator: Evaluator) -> None:
        self._folder, self._subject, self._evaluator = folder, subject, evaluator

    @cached_property
    def key(self) -> str:
        """What a batch belongs to: equal only if it would be judged alike."""
        facts = {
            "subject": self._subject.digest,
            "evaluator": self._evaluator.model_dump(mode="json"),
            "code": _source(type(self._evaluator)),  # it may be the user's own
        }
        return hashlib.sha256(canonical(facts).encode()).hexdigest()

    def read(self) -> dict[int, JudgedBatch]:
        """The batches that have been judged, by number."""
        found = [self._read(path) for path in sorted(self._folder.glob(_FILES))]
        return {batch.number: batch for batch in found if batch is not None}

    def add(self, batches: Iterable[JudgedBatch]) -> None:
        """Keep some batches; each is on the disk whole, or not at all."""
        for batch in batches:
            self._write(batch)

    def _write(self, batch: JudgedBatch) -> None:
        metadata = {
            "key": self.key,
            "number": batch.number,
            "entries": list(batch.images),  # safetensors has an order of its own
            "omissions": [[*omission, count] for omission, count in batch.omissions.items()],
        }
        tensors = {f"entry {name}": values for name, values in batch.images.items()}
        tensors["labels"] = batch.labels
        # Not durable: what a power cut damages has another digest, and is judged again.
        write_sealed(self._path(batch.number), tensors, metadata, durable=False)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.safetensors"

    def _read(self, path: Path) -> JudgedBatch | None:
        try:
            metadata, tensors = read_sealed(path, _unchecked)
            number = metadata["number"]
            if metadata["key"] != self.key or path != self._path(number):
                return None
            images = {name: tensors[f"entry {name}"] for name in metadata["entries"]}
            omissions = {Omission(what, why): n for what, why, n in metadata["omissions"]}
            return JudgedBatch(number, tensors["labels"], images, Omissions(omissions))
        except (UsageError, OSError, KeyError, TypeError, ValueError):
            return None


def clear(folder: Path) -> None:
    """Drop what an `EvaluationProgress` has kept, and the folder; what is not its own stays."""
    for pattern in (_FILES, _DRAFTS):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # it was never made, or holds something else
        folder.rmdir()


def _source(evaluator: type[Evaluator]) -> str:
    try:
        return inspect.getsource(inspect.getmodule(evaluator) or evaluator)
    except (OSError, TypeError):  # typed into an interpreter
        return ""


def _unchecked(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata
