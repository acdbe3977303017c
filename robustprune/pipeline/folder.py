"""A run's folder: what is in it, who may write to it, and whether it can be gone on with."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from robustprune.errors import FullDiskError, UsageError
from robustprune.files import lock, write_json, write_text
from robustprune.pipeline.reserve import Reserve
from robustprune.pipeline.strategies import job
from robustprune.recipe import Recipe
from robustprune.recipe.document import dump
from robustprune.tracking.layout import flatten

_ORIGIN, _JOB = "origin", "job"


class RunFolder:
    """``runs/<recipe name>/<id>/``.

    Attributes:
        path: the folder.
        resumed: whether an earlier process has worked in it.
    """

    def __init__(self, path: Path, *, resumed: bool = False) -> None:
        self.path = path
        self.resumed = resumed
        self._lock: ExitStack | None = None
        self._reserve: Reserve | None = None

    @classmethod
    def begin(
        cls,
        recipe: Recipe,
        *,
        runs: Path,
        out: Path | None,
        cut: dict[str, Any],
        resume: bool = False,
        origin: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Make a folder.

        Args:
            recipe: resolved.
            runs: where folders without a name of their own are made.
            out: the folder itself; a new one below ``runs`` if absent.
            cut: how the run is shortened; one that goes on with it must agree.
            resume: a run was asked for that could be gone on with, and had not begun.
            origin: of the weights that it starts from; see `robustprune.pipeline.weights`.

        Raises:
            UsageError: it exists already, or it cannot be written.
        """
        folder = cls(out or _new(runs / recipe.name))
        folder._begin(recipe, cut, origin or {}, resume=resume)
        return folder

    @classmethod
    def reopen(
        cls, recipe: Recipe, *, runs: Path, out: Path | None, cut: dict[str, Any]
    ) -> RunFolder | None:
        """Find the run to go on with: ``out``, or the newest; None if ``out`` had not begun.

        Raises:
            UsageError: there is nothing to resume, it was made by another recipe, or nothing can
                be written there.
        """
        path = out or _newest(runs / recipe.name, _identity(recipe, cut))
        if path is None or not path.exists():
            where = path or f"{runs / recipe.name}: no unfinished run there is of this recipe"
            raise UsageError(
                f"nothing to resume in {where}. Run without --resume, or name the folder of an "
                "unfinished run with --out."
            )
        if not (path / "state" / "run.json").is_file():
            return None
        _check_same(path, _identity(recipe, cut))
        folder = cls(path, resumed=True)
        try:
            folder._check_writable()
            folder._claim()
            folder._tidy(recipe)
            folder._note_job()
        except OSError as error:
            raise UsageError(
                f"cannot resume in {path}: {error.strerror}. Make {error.filename or path} "
                "writable, or go on in a copy of the folder (--out)."
            ) from None
        return folder

    @property
    def results(self) -> Path:
        """``results.json``."""
        return self.path / "results.json"

    def network(self, name: str) -> Path:
        """The folder of one network."""
        return self.path / name

    def model(self, network: str) -> Path:
        """The file of one network."""
        return self.network(network) / "model.safetensors"

    def history(self, network: str) -> Path:
        """The curves of one network."""
        return self.network(network) / "history.json"

    def images(self, network: str) -> Path:
        """What became of each test image under one network."""
        return self.network(network) / "images.parquet"

    def state(self, network: str, stage: str) -> Path:
        """The state of one stage, which only resume reads."""
        return self.path / "state" / f"{network}.{stage}.pt"

    def epoch(self, number: int) -> Path:
        """The dense network's weights after some epochs of pretraining, for pruners' use."""
        return self.path / "state" / f"dense.pretrain@{number}.pt"

    @property
    def _lock_file(self) -> Path:
        return self.path / "state" / "lock"

    @property
    def _reserve_file(self) -> Path:
        return self.path / "state" / "reserve"

    @property
    def evaluations(self) -> Path:
        """What evaluators have found so far."""
        return self.path / "state" / "evaluations.json"

    def judged(self, network: str, metric: str) -> Path:
        """The batches that an evaluator has judged, until it has judged all of them."""
        return self.path / "state" / "evaluations" / f"{network}.{metric}"

    @property
    def origin(self) -> dict[str, Any]:
        """Where the weights come from that the run started from, as it was when it began."""
        origin: dict[str, Any] = read_json(self.path / "state" / "run.json", {}).get(_ORIGIN, {})
        return origin

    @property
    def threads(self) -> int | None:
        """The threads that each process of the run has begun with."""
        found = read_json(self.results, {}).get("environment", {}).get("threads")
        return found if isinstance(found, int) and found > 0 else None

    @property
    def reused(self) -> Path:
        """Which shared dense network the run took over, if it did."""
        return self.path / "state" / "reused.json"

    @property
    def finished(self) -> bool:
        """Whether the run in it is complete."""
        return (self.path / "state" / "finished").exists()

    def hold(self, size: int) -> None:
        """Set bytes of the disk aside for `write`.

        Raises:
            UsageError: there is no room for them.
        """
        self._reserve = Reserve(self._reserve_file, size)

    def write(self, work: Callable[[], None]) -> None:
        """Do ``work``, which writes something; if the disk is full, again in the room set aside.

        Raises:
            OSError: there is no room left that was set aside, or something else is wrong.
        """
        if self._reserve is None:
            work()
        else:
            self._reserve.write(work)

    def stop_if_full(self, kept: str) -> None:
        """End the run where all of a moment is written, and the next one would find no room.

        Args:
            kept: what the moment was about.

        Raises:
            FullDiskError: the room that was set aside has been taken.
        """
        if self._reserve is not None and self._reserve.used:
            raise FullDiskError(kept, self.path)

    def finish(self) -> None:
        """Note that the run is complete, and drop the states of its stages and evaluations."""
        self._release()
        for path in (self.path / "state").glob("*.pt"):
            path.unlink()
        shutil.rmtree(self.path / "state" / "evaluations", ignore_errors=True)
        write_text(self.path / "state" / "finished", "")

    def _begin(
        self, recipe: Recipe, cut: dict[str, Any], origin: Mapping[str, Any], *, resume: bool
    ) -> None:
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UsageError(f"{self.path} is a file. Name a folder with --out.")
            if any(not _is_draft(p) for p in _files(self.path) if p != self._lock_file):
                raise UsageError(
                    f"{self.path} holds no run that could be resumed. Name the folder of one."
                    if resume
                    else f"{self.path} is not empty. Go on with the run in it (--resume), or name "
                    "another folder (--out)."
                )
            self._claim()
            self._keep_code(recipe)
            run = {**_identity(recipe, cut), _ORIGIN: origin}
            write_json(self.path / "state" / "run.json", run)
            write_text(self.path / "recipe.yaml", dump(recipe.document()))
            self._note_job()
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.path}: {error.strerror}. Name another folder with --out."
            ) from None

    def _keep_code(self, recipe: Recipe) -> None:
        """Copy the files that the recipe imports, so that the run can be repeated from here."""
        names = [file.name for file in recipe.files.values()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UsageError(
                f"imports: several files are called {twice.pop()}. Rename one of them."
            )
        for file in recipe.files.values():
            write_text(self.path / "imports" / file.name, file.read_text(encoding="utf-8"))

    def _claim(self) -> None:
        """Keep other processes out for as long as this one lives, however it ends."""
        try:
            self._lock = lock(self._lock_file, wait=False)
        except BlockingIOError:
            raise UsageError(
                f"another process is running in {self.path}. Wait for it, or name another folder "
                "with --out."
            ) from None

    def _note_job(self) -> None:
        if (name := job()) is not None:
            write_text(self.path / "state" / _JOB, name)

    def _check_writable(self) -> None:
        """Ask for every folder of the run: any of them will be written to."""
        for place in (self.path, *filter(Path.is_dir, self.path.rglob("*"))):
            if not os.access(place, os.W_OK | os.X_OK):
                number = errno.EROFS if _is_read_only(place) else errno.EACCES
                raise OSError(number, os.strerror(number), str(place))

    def _release(self) -> None:
        if self._reserve is not None:
            with suppress(OSError):  # of a disk that has become read-only
                self._reserve.release()

    def close(self) -> None:
        """Give the room that was set aside back, and let other processes in again."""
        self._release()
        if self._lock is not None:
            self._lock.close()

    def _tidy(self, recipe: Recipe) -> None:
        """Make up for the moment at which the process before was killed."""
        for path in filter(_is_draft, _files(self.path)):
            path.unlink(missing_ok=True)
        self._reserve_file.unlink(missing_ok=True)
        if not (self.path / "recipe.yaml").exists():
            write_text(self.path / "recipe.yaml", dump(recipe.document()))
        if not self.finished:
            self._keep_code(recipe)  # it may have been mended since


def read_json(path: Path, default: Any) -> Any:
    """The content of a JSON file of a run folder, or ``default`` if there is none.

    Raises:
        UsageError: the file is damaged.
    """
    if not path.exists():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Delete it to do that again.") from None


def _identity(recipe: Recipe, cut: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run must have in common with the one it goes on with."""
    document = recipe.document()
    for about in ("tracking", "paper"):
        del document[about]
    return {"recipe": document, **cut}


def _check_same(path: Path, identity: dict[str, Any]) -> None:
    changes = _changes(path, identity)
    if changes:
        more = [f"  and {len(changes) - 10} more"] if len(changes) > 10 else []
        raise UsageError(
            f"{path} was made by another recipe and cannot be resumed with this one:\n"
            + "\n".join(changes[:10] + more)
            + "\nResume with the recipe in that folder, or run without --resume."
        )


def _changes(path: Path, identity: dict[str, Any]) -> list[str]:
    """How the run in ``path`` differs from one of this identity, a line an option."""
    run = read_json(path / "state" / "run.json", {})
    before = flatten({key: value for key, value in run.items() if key != _ORIGIN})
    now = flatten(json.loads(json.dumps(identity)))
    missing = "absent"
    return [
        f"  {key.removeprefix('recipe.')}: was {json.dumps(before.get(key, missing))}, "
        f"is {json.dumps(now.get(key, missing))}"
        for key in before | now
        if before.get(key, missing) != now.get(key, missing)
    ]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def _is_read_only(folder: Path) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _is_draft(path: Path) -> bool:
    """Whether it is what `robustprune.files.replacing` leaves of a file if it is killed."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _new(parent: Path) -> Path:
    name = time.strftime("%Y%m%d-%H%M%S")
    candidates = [parent / name, *(parent / f"{name}-{n}" for n in range(2, 100))]
    return next(path for path in candidates if not path.exists())


def of_job(recipe: Recipe, *, runs: Path, out: Path | None) -> Path | None:
    """The folder that this job has worked in before it was started anew, if it had one already."""
    name = job()
    folders = [out] if out is not None else list((runs / recipe.name).glob("*"))
    notes = {folder: folder / "state" / _JOB for folder in folders}
    found = [path for path, note in notes.items() if note.is_file() and note.read_text() == name]
    return max(found, key=lambda path: path.name, default=None)


def known(recipe: Recipe, *, runs: Path, cut: dict[str, Any], finished: bool) -> Path | None:
    """The newest run of this very recipe below ``runs`` that has finished, or that has not."""
    return _newest(runs / recipe.name, _identity(recipe, cut), finished=finished)


def _newest(parent: Path, identity: dict[str, Any], *, finished: bool = False) -> Path | None:
    states = [path.parent for path in parent.glob("*/state/run.json")]
    found = [state.parent for state in states if (state / "finished").exists() == finished]
    fitting = [path for path in found if not _changes(path, identity)]
    return max(fitting, key=lambda path: path.name, default=None)
