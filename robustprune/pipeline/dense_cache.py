"""Dense networks that recipes share: each is trained once, and looked up by its determinants."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from robustprune.components import Part
from robustprune.datasets import Splits
from robustprune.errors import UsageError
from robustprune.families import FAMILIES, family
from robustprune.files import lock, replacing, write_json
from robustprune.models import registered_by
from robustprune.pipeline.initial_network import shape
from robustprune.pipeline.results import installed_versions
from robustprune.recipe import Recipe
from robustprune.recipe.imports import imported_as
from robustprune.shard import Shard, on_main_process

History = list[dict[str, float]]
_ALONE = Shard()
_MODEL = "model.safetensors"
_LATER = {"pruners", "structures", "allocations", "evaluators", "measures", "backends"}
"""The families of parts that pretraining does not use."""


class DenseCache:
    """``runs/dense/<digest>/``: the dense network of every recipe that would train the same.

    ``record.json`` is written last and holds the checksums of the files, so that what is
    half-written or damaged is not taken. The main process alone reads and writes it.

    Args:
        runs: the folder of all runs.
        key: what determines the network; see `determinants`.
        warn: is told of a network that is damaged, or cannot be kept.
        shard: this process.

    Attributes:
        digest: of ``key``.
        model: the network's file.
    """

    def __init__(
        self,
        runs: Path,
        key: Mapping[str, Any],
        *,
        warn: Callable[[str], None],
        shard: Shard = _ALONE,
    ) -> None:
        self._key = json.loads(json.dumps(key))
        text = json.dumps(self._key, sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = runs / "dense" / self.digest
        self.model, self._record = self.folder / _MODEL, self.folder / "record.json"
        self._warn, self.shard = warn, shard

    @contextmanager
    def claim(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Keep other jobs from training the same network; ``waiting`` is called if one is.

        Raises:
            UsageError: nothing can be written there.
        """
        file = self.folder / "lock"
        with ExitStack() as held:

            def take() -> None:
                try:
                    held.enter_context(lock(file, wait=False))
                except BlockingIOError:
                    waiting()
                    held.enter_context(lock(file, wait=True))

            try:
                self.shard.lead(take)
            except OSError as error:
                raise UsageError(
                    f"cannot write to {self.folder}, where dense networks are shared: "
                    f"{error.strerror}. Mend that, or let `robustprune run --fresh` train its own."
                ) from None
            yield

    @on_main_process
    def fetch(self, epochs: Mapping[int, Path]) -> History | None:
        """The network's curves, if it is there; its weights after ``epochs`` go to those files."""
        files = self._files(self.model, epochs)
        if not self._record.exists():
            return None
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            sums = record["files"]
            if not sums.keys() >= files.keys():  # left by a run that needed other epochs
                return None
            same = all(sums[name] == _checksum(self.folder / name) for name in files)
            if record["key"] != self._key or not same:
                raise ValueError("its checksum is another")
            history = [{k: float(v) for k, v in epoch.items()} for epoch in record["history"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._warn(f"the dense network in {self.folder} is damaged ({error}): trained again.")
            return None
        for name, file in files.items():
            if name != _MODEL:
                _copy(self.folder / name, file)
        return history

    @on_main_process
    def add(self, model: Path, history: History, epochs: Mapping[int, Path]) -> None:
        """Keep a network's file, its curves, and its weights after some epochs.

        A failure costs a warning: the disk may be another one than the run folder's.
        """
        files = self._files(model, epochs)
        try:
            for name, file in files.items():
                _copy(file, self.folder / name)
            sums = {name: _checksum(self.folder / name) for name in files}
            write_json(self._record, {"key": self._key, "history": history, "files": sums})
        except OSError as error:
            self._warn(f"the dense network is not shared: {error}")

    def _files(self, model: Path, epochs: Mapping[int, Path]) -> dict[str, Path]:
        """The run's files by their names here."""
        return {_MODEL: model, **{f"pretrain@{n}.pt": file for n, file in epochs.items()}}


def determinants(
    recipe: Recipe,
    data: Splits,
    *,
    environment: Mapping[str, Any],
    origin: Mapping[str, Any],
    max_steps: int | None,
) -> dict[str, Any]:
    """Everything that the bits of a recipe's dense network depend on, as JSON values.

    More counts than is known to matter: a difference that would not have mattered costs a training,
    one that is overlooked a wrong result.

    The data counts by its images, wherever they lie.
    """
    document = recipe.document()
    assert data.train is not None
    assert recipe.pretrain is not None
    objective: Part = recipe.objective_of(recipe.pretrain)
    held_out = None if data.validation is None else data.validation.digest()
    imports = {name: recipe.files.get(name) for name in recipe.imports}
    return {
        "seed": recipe.seed,
        "data": {key: value for key, value in document["data"].items() if key != "root"},
        "images": [data.train.digest(), held_out],
        "model": recipe.model.resolved(**shape(data)),
        "weights": dict(origin),
        "pretrain": {
            **document["pretrain"],
            "objective": objective.model_dump(mode="json"),
        },
        # masks that stand still are trained through sparse kernels, and here there are none
        "compute": {key: v for key, v in document["compute"].items() if key != "sparse"},
        "imports": {
            name: None if path is None else _checksum(path)
            for name, path in imports.items()
            if not _is_later(imported_as(name, path))
        },
        "environment": {k: v for k, v in environment.items() if k != "cores"},
        "libraries": installed_versions("auto-LiRPA", "robustprune"),
        "code": code_digest(),
        "max_steps": max_steps,
    }


def _is_later(module: str | None) -> bool:
    """True if a module registers parts, and none that pretraining uses."""
    if module is None:
        return False
    families = {name for name in FAMILIES if family(name).registered_by(module)}
    return bool(families) and families <= _LATER and not registered_by(module)


@cache
def code_digest() -> str:
    """16 hex digits of our own code, whose version says too little while it is worked on."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _copy(file: Path, to: Path) -> None:
    with replacing(to) as temporary:
        shutil.copyfile(file, temporary)


def _checksum(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
