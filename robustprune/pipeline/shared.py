"""Dense networks that recipes share: each is trained once, and found by what determines it."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import ExitStack
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import robustprune
from robustprune.errors import UsageError
from robustprune.families import FAMILIES, family
from robustprune.files import lock, replacing, write_json
from robustprune.models import registered_by
from robustprune.pipeline.network import shape
from robustprune.recipe.imports import imported_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from robustprune.datasets import Splits
    from robustprune.recipe import Recipe

History = list[dict[str, float]]
_LATER = {"pruners", "structures", "allocations", "evaluators"}
"""The families of parts that pretraining does not use."""


class SharedDense:
    """``runs/dense/<digest>/``: the dense network of every recipe that would train the same.

    ``record.json`` is written last and holds the checksum of the network's file, so that what is
    half-written or damaged is not taken.

    Args:
        runs: the folder of all runs.
        key: what determines the network; see `determinants`.

    Attributes:
        digest: of ``key``.
        model: the network's file.
    """

    def __init__(self, runs: Path, key: Mapping[str, Any]) -> None:
        self._key = json.loads(json.dumps(key))
        text = json.dumps(self._key, sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = runs / "dense" / self.digest
        self.model = self.folder / "model.safetensors"

    def claim(self, waiting: Callable[[], None]) -> ExitStack:
        """Keep other jobs from training the same network; ``waiting`` is called if one is.

        Raises:
            UsageError: nothing can be written there.
        """
        file = self.folder / "lock"
        try:
            return lock(file, wait=False)
        except BlockingIOError:
            waiting()
            return lock(file, wait=True)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.folder}, where dense networks are shared: "
                f"{error.strerror}. Mend that, or train this run's own with --fresh."
            ) from None

    def history(self, warn: Callable[[str], None], epochs: Iterable[int] = ()) -> History | None:
        """The network's curves, if it is there, with its weights after these epochs.

        ``warn`` is told of one that is damaged.
        """
        if not self._record.exists() or not all(self._epoch(n).exists() for n in epochs):
            return None
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            early = {str(n): self._epoch(n) for n in epochs}
            if not early.keys() <= record.keys():  # left by a run that needed other epochs
                return None
            files = {"sha256": self.model, **early}
            same = all(record[name] == _checksum(file) for name, file in files.items())
            if record["key"] != self._key or not same:
                raise ValueError("its checksum is another")
            return [{k: float(v) for k, v in epoch.items()} for epoch in record["history"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warn(f"the dense network in {self.folder} is damaged ({error}) and trained again.")
            return None

    def commit(
        self, model: Path, history: History, epochs: Mapping[int, Path] | None = None
    ) -> None:
        """Take in a network's file, its curves, and its weights after some epochs."""
        content: dict[str, Any] = {"key": self._key, "history": history}
        for name, file, own in [
            ("sha256", model, self.model),
            *((str(n), file, self._epoch(n)) for n, file in (epochs or {}).items()),
        ]:
            with replacing(own) as temporary:
                shutil.copyfile(file, temporary)
            content[name] = _checksum(own)
        write_json(self._record, content)

    def fetch(self, epochs: Mapping[int, Path]) -> None:
        """Copy the weights after some epochs to these files."""
        for number, file in epochs.items():
            with replacing(file) as temporary:
                shutil.copyfile(self._epoch(number), temporary)

    def _epoch(self, number: int) -> Path:
        return self.folder / f"pretrain@{number}.pt"

    @property
    def _record(self) -> Path:
        return self.folder / "record.json"


def determinants(
    recipe: Recipe,
    data: Splits,
    *,
    environment: Mapping[str, Any],
    origin: Mapping[str, Any],
    max_steps: int | None,
) -> dict[str, Any]:
    """All that the bits of a recipe's dense network depend on, as JSON values.

    That is more than what is known to matter: a difference that would not have mattered costs a
    training, one that is overlooked a wrong result.

    Args:
        recipe: with a ``pretrain`` section.
        data: counts by its images, wherever they lie.
        environment: versions, device and threads; see `robustprune.pipeline.results`.
        origin: the weights that it starts from; see `robustprune.pipeline.weights`.
        max_steps: set if stages are cut.
    """
    document = recipe.document()
    assert data.train is not None
    assert recipe.pretrain is not None
    own = recipe.pretrain.objective or recipe.objective
    objective = own.model_dump(mode="json", serialize_as_any=True)
    held_out = None if data.validation is None else data.validation.digest()
    return {
        "seed": recipe.seed,
        "data": {key: value for key, value in document["data"].items() if key != "root"},
        "images": [data.train.digest(), held_out],
        "model": recipe.model.resolved(**shape(data)),
        "weights": dict(origin),
        "pretrain": {**document["pretrain"], "objective": objective},
        "compute": document["compute"],
        "imports": {
            name: None if path is None else _checksum(path)
            for name, path in ((name, recipe.files.get(name)) for name in recipe.imports)
            if not _is_later(imported_as(name, path))
        },
        "environment": {k: v for k, v in environment.items() if k != "cores"},
        "libraries": library_versions(),
        "code": code_digest(),
        "max_steps": max_steps,
    }


def _is_later(module: str | None) -> bool:
    """Whether a module registers parts, and none that pretraining uses."""
    if module is None:
        return False
    families = {name for name in FAMILIES if family(name).registered_by(module)}
    return bool(families) and families <= _LATER and not registered_by(module)


@cache
def code_digest() -> str:
    """Of our own code, whose version says too little while it is worked on; 16 hex digits."""
    folder = Path(robustprune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def library_versions(*others: str) -> dict[str, str]:
    """Of libraries that results.json does not name, and of ``others``."""
    found = {}
    for name in ("auto-LiRPA", "robustprune", *others):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _checksum(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
