"""The state of an evaluation: what is judged, and the batches that have been judged already."""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustprune.artifacts.checksummed import ModelFile, canonical, digest, write_checksummed
from robustprune.datasets.source import Source
from robustprune.errors import UsageError
from robustprune.evaluators import Evaluator
from robustprune.evaluators.accuracy import PerImage
from robustprune.pipeline.dense_cache import code_digest
from robustprune.pipeline.results import installed_versions
from robustprune.shard import Shard, on_main_process

_BATCHES = "[0-9]*.safetensors"
_DRAFTS = ".[0-9]*.safetensors.*.tmp"


@dataclass(frozen=True)
class Subject:
    """A network that evaluators judge, and the images that it is shown.

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
        """A digest of all that results depend on, beside the evaluator; computed once."""
        tensors = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        facts = {
            "network": self.network,
            "seed": self.seed,
            "about": dict(self.about),
            "images": None if self.test is None else [len(self.test), self.test.digest()],
            "devices": sorted({tensor.device.type for tensor in tensors.values()}),
            "torch": torch.__version__,
            "libraries": installed_versions(
                "auto-LiRPA", "torchattacks", "llvmlite", "robustprune"
            ),
            "code": code_digest(),
        }
        return digest(tensors, facts)


class JudgedBatch(NamedTuple):
    """The results of one batch: labels ``(n,)``, int64, and tensors of length n by name."""

    number: int
    labels: Tensor
    images: PerImage


class KeptBatches:
    """A folder with a file for each batch that one evaluator has judged.

    A file that is damaged, or about something else, counts for nothing: its batch is judged again.
    All processes call the same methods; the main one alone touches the folder, which is made when
    the first file is written. Without a folder nothing is kept. ``choices`` are those of the sparse
    copy that stands in for the subject's network, if one does.
    """

    def __init__(
        self,
        folder: Path | None,
        subject: Subject,
        evaluator: Evaluator,
        shard: Shard,
        *,
        choices: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.shard = folder, shard
        self._subject, self._evaluator, self._choices = subject, evaluator, choices

    @cached_property
    def key(self) -> str:
        """A digest that is equal only of batches that would be judged alike."""
        try:
            source = inspect.getsource(inspect.getmodule(type(self._evaluator)) or type(self))
        except (OSError, TypeError):  # typed into an interpreter
            source = ""
        facts = {
            "subject": self._subject.digest,
            "evaluator": self._evaluator.model_dump(mode="json"),
            "sparse": self._choices,
            "code": source,  # it may be the user's own
        }
        return hashlib.sha256(canonical(facts).encode()).hexdigest()

    @on_main_process
    def read(self) -> dict[int, JudgedBatch]:
        """The batches that have been judged, by number."""
        paths = [] if self.folder is None else sorted(self.folder.glob(_BATCHES))
        return {batch.number: batch for path in paths if (batch := self._read(path))}

    @on_main_process
    def add(self, batches: Iterable[JudgedBatch]) -> None:
        """Keep some batches; each is on the disk whole, or not at all."""
        if self.folder is None:
            return
        for number, labels, images in batches:
            # safetensors has an order of its own
            metadata = {"key": self.key, "number": number, "entries": list(images)}
            tensors = {f"entry {name}": values for name, values in images.items()}
            tensors["labels"] = labels
            # Not durable: what a power cut damages has another digest, and is judged again.
            file = f"{number}.safetensors"
            write_checksummed(self.folder / file, tensors, metadata, durable=False)

    @on_main_process
    def clear(self) -> None:
        """Drop what was kept: it stands elsewhere now."""
        if self.folder is not None:
            clear(self.folder)

    def _read(self, path: Path) -> JudgedBatch | None:
        try:
            metadata, tensors = ModelFile(path).checksummed()
            number = metadata["number"]
            if metadata["key"] != self.key or path.stem != str(number):
                return None
            images = {name: tensors[f"entry {name}"] for name in metadata["entries"]}
            return JudgedBatch(number, tensors["labels"], images)
        except (UsageError, OSError, KeyError, TypeError, ValueError):
            return None


def clear(folder: Path) -> None:
    """Drop what `KeptBatches` has kept, and the folder; what is not its own stays."""
    for pattern in (_BATCHES, _DRAFTS):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # it was never made, or holds something else
        folder.rmdir()


@contextmanager
def state_folder(path: Path, names: Iterable[str]) -> Iterator[None]:
    """Make a folder of the user's choice, in the main process, for batches that are kept in it.

    When all is done what has these names goes: folders of batches, and files. So does the folder if
    nothing else is in it. After an error or an interruption they stay.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        if not path.exists():
            path.mkdir(parents=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UsageError(
            f"--state {path}: cannot be written ({error.strerror}). Name another folder."
        ) from None
    yield
    for name in names:
        if (path / name).is_file():
            (path / name).unlink()
        clear(path / name)
    with suppress(OSError):
        path.rmdir()
