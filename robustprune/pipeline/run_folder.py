"""A run's folder: its files, its lock, and the search for the one that a run goes on in.

Every process of a job has the same `RunFolder`. The main process alone reads and writes files; the
others are told what it has read, and need not see the disk.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import Outline, SavedModel, annotate, save_model
from robustprune.errors import UsageError
from robustprune.files import lock, write_json, write_text
from robustprune.pipeline.initial_network import origin
from robustprune.pipeline.launcher_env import job_name, restarted
from robustprune.recipe import Recipe
from robustprune.recipe.document import dump
from robustprune.shard import Shard, on_main_process
from robustprune.tracking.layout import flatten
from robustprune.training.state import StageState

LOG = "log.txt"
"""In a run's folder, what it has said where it was one of several at once."""
_ORIGIN = "origin"  # in state/run.json, beside what identifies the run
_ALONE = Shard()


class RunFolder:
    """``runs/<recipe name>/<id>/``.

    Attributes:
        path: the folder.
        shard: this process.
        resumed: true if an earlier job has worked in it.
        results: ``results.json``.
        reused: the digest of the dense network that the run took over, if it did.
    """

    def __init__(self, path: Path, *, shard: Shard = _ALONE, resumed: bool = False) -> None:
        self.path, self.shard, self.resumed = path, shard, resumed
        self.results = path / "results.json"
        self._state = path / "state"
        self.reused = self._state / "reused.json"
        self._lock = ExitStack()

    @on_main_process
    def begin(self, recipe: Recipe, *, cut: Mapping[str, Any], resume: bool = False) -> None:
        """Make the folder, and keep other jobs out of it.

        A job that goes on in it must agree with the recipe and with ``cut``. With ``resume`` a run
        was asked for that could be gone on with, and had not begun.

        Raises:
            UsageError: it exists already, or it cannot be written.
        """
        names = [file.name for file in recipe.files.values()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"imports: several files are called {twice.pop()}. Rename one.")
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UsageError(f"{self.path} is a file. Name a folder with --out.")
            ours = (self._state / "lock", self.path / LOG)
            if any(path not in ours for path in self._files() if not _is_draft(path)):
                raise UsageError(
                    f"{self.path} holds no run that could be resumed. Name the folder of one."
                    if resume
                    else f"{self.path} is not empty. Go on with the run in it (--resume), or name "
                    "another folder (--out)."
                )
            self._claim()
            run = {**_identity(recipe, cut), _ORIGIN: origin(recipe)}
            write_json(self._state / "run.json", run)
            self._note(recipe)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.path}: {error.strerror}. Name another folder with --out."
            ) from None

    @on_main_process
    def reopen(self, recipe: Recipe) -> None:
        """Go on in the folder, and keep other jobs out of it.

        Raises:
            UsageError: another job is at work there, or it cannot be written.
        """
        try:
            self._claim()
            for path in self._files():
                if _is_draft(path):
                    path.unlink(missing_ok=True)
            if not self.finished:
                self._note(recipe)
        except OSError as error:
            raise UsageError(
                f"cannot resume in {self.path}: {error.strerror} ({error.filename}). Mend that, or "
                "go on in a copy of the folder (--out)."
            ) from None

    def model(self, network: str) -> Path:
        """The file of one network."""
        return self.path / network / "model.safetensors"

    def history(self, network: str) -> Path:
        """The curves of one network."""
        return self.path / network / "history.json"

    def images(self, network: str) -> Path:
        """The table of test images under one network."""
        return self.path / network / "images.parquet"

    def state(self, network: str, stage: str) -> Path:
        """The state of one stage, which only resume reads."""
        return self._state / f"{network}.{stage}.pt"

    def epoch(self, number: int) -> Path:
        """The dense network's weights after some epochs of pretraining, for pruners' use."""
        return self._state / f"dense.pretrain@{number}.pt"

    def batches(self, network: str, metric: str) -> Path:
        """The batches that an evaluator has judged, until it has judged all of them."""
        return self._state / "evaluations" / f"{network}.{metric}"

    def choices(self, network: str, stage: str | None = None) -> Path:
        """What sparse kernels are used for: where a network is evaluated, or in a stage."""
        return self._state / "sparse" / f"{network}{'' if stage is None else f'.{stage}'}.json"

    @property
    @on_main_process
    def finished(self) -> bool:
        """True if the run in it is complete."""
        return (self._state / "finished").exists()

    @property
    @on_main_process
    def origin(self) -> dict[str, Any]:
        """The origin of the weights that the run started from, as it was when it began."""
        return dict(read_json(self._state / "run.json", {}).get(_ORIGIN, {}))

    @on_main_process
    def check_origin(self, recipe: Recipe) -> None:
        """Make sure that the run goes on from the weights that it began with.

        Raises:
            UsageError: their file is another one now.
        """
        if origin(recipe) != self.origin:
            raise UsageError(
                f"model.weights: {recipe.model.weights} has changed since the run began. Put the "
                "file back, or run anew without --resume."
            )

    @property
    @on_main_process
    def threads(self) -> int | None:
        """The threads that each process of the run has begun with."""
        threads: int | None = read_json(self.results, {}).get("environment", {}).get("threads")
        return threads

    @on_main_process
    def has_model(self, network: str) -> bool:
        """True if a network has been made."""
        return self.model(network).exists()

    @on_main_process
    def read_json(self, path: Path, default: Any) -> Any:
        """The content of one of the folder's JSON files; see `read_json`."""
        return read_json(path, default)

    def read_model(self, network: str) -> SavedModel:
        """A network that has been made."""
        return read_together(self.model(network), self.shard)

    @on_main_process
    def read_epoch(self, number: int) -> dict[str, Tensor]:
        """The dense network's weights after some epochs of pretraining."""
        path = self.epoch(number)
        if (state := StageState.load(path)) is None:
            raise UsageError(f"{path} is gone, which holds weights of pretraining. Run anew.")
        return state.model

    @on_main_process
    def write_json(self, path: Path, value: Any) -> None:
        """Write one of the folder's JSON files, atomically."""
        write_json(path, value)

    @on_main_process
    def write_model(
        self, network: str, model: nn.Module, masks: Mapping[str, Tensor], metadata: dict[str, Any]
    ) -> None:
        """Write a network's file, atomically; see `save_model`."""
        save_model(self.model(network), model, masks=masks, metadata=metadata)

    @on_main_process
    def annotate(self, network: str, facts: Mapping[str, Any]) -> None:
        """Add facts to the metadata of a network's file."""
        annotate(self.model(network), **facts)

    @on_main_process
    def finish(self) -> None:
        """Note that the run is complete, and drop the states of its stages and evaluations."""
        for path in self._state.glob("*.pt"):
            path.unlink()
        shutil.rmtree(self._state / "evaluations", ignore_errors=True)
        write_text(self._state / "finished", "")

    def close(self) -> None:
        """Let other jobs in again."""
        self._lock.close()

    def _note(self, recipe: Recipe) -> None:
        """Keep the recipe, what it imports, and the job's name: a run can be repeated from here."""
        write_text(self.path / "recipe.yaml", dump(recipe.document()))
        for file in recipe.files.values():
            write_text(self.path / "imports" / file.name, file.read_text(encoding="utf-8"))
        if (name := job_name()) is not None:
            write_text(self._state / "job", name)

    def _claim(self) -> None:
        """Keep other processes out until this one ends, in whatever way."""
        try:
            self._lock = lock(self._state / "lock", wait=False)
        except BlockingIOError:
            raise UsageError(
                f"another process is running in {self.path}. Wait for it, or name another folder "
                "with --out."
            ) from None

    def _files(self) -> list[Path]:
        return [path for path in self.path.rglob("*") if not path.is_dir()]


def read_together(path: Path, shard: Shard) -> SavedModel:
    """The network in a file that the main process alone need see; see `read_model`."""
    read: list[SavedModel] = []

    def work() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        read.append(read_model(path))
        return read[0].metadata, dict(read[0].model.state_dict()), read[0].masks

    told = shard.lead(work)
    if read:
        return read[0]
    metadata, weights, masks = told
    return Outline(path, metadata, tensors=len(weights)).rebuild(weights, masks)


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


def newest_run(
    recipe: Recipe, *, runs: Path, cut: Mapping[str, Any], finished: bool
) -> Path | None:
    """The newest run of this very recipe below ``runs`` that has finished, or that has not."""
    folders = [path.parents[1] for path in (runs / recipe.name).glob("*/state/run.json")]
    ended = [path for path in folders if (path / "state" / "finished").exists() == finished]
    same = [path for path in ended if not _changes(path, _identity(recipe, cut))]
    return max(same, key=lambda path: path.name, default=None)


def run_of_job(recipe: Recipe, *, runs: Path, out: Path | None) -> Path | None:
    """The folder that this job has worked in before it was started anew, if it had one already."""
    folders = [out] if out is not None else (runs / recipe.name).glob("*")
    notes = [note for path in folders if (note := path / "state" / "job").is_file()]
    own = [note.parents[1] for note in notes if note.read_text() == job_name()]
    return max(own, key=lambda path: path.name, default=None)


def find_run(
    recipe: Recipe, *, runs: Path, out: Path | None, cut: Mapping[str, Any], resume: bool
) -> Path | None:
    """The folder of the run to go on with: ``out``, or the newest; None if none is, or had begun.

    A job that its launcher has started anew goes on in its own folder.

    Raises:
        UsageError: there is none to resume, or another recipe made it.
    """
    if restarted() and (own := run_of_job(recipe, runs=runs, out=out)) is not None:
        out, resume = own, True
    if not resume:
        return None
    path = out or newest_run(recipe, runs=runs, cut=cut, finished=False)
    if path is None or not path.exists():
        where = path or f"{runs / recipe.name}: no unfinished run there is of this recipe"
        raise UsageError(
            f"nothing to resume in {where}. Run without --resume, or name the folder of an "
            "unfinished run with --out."
        )
    if not (path / "state" / "run.json").is_file():
        return None
    if changes := _changes(path, _identity(recipe, cut)):
        more = [f"  and {len(changes) - 10} more"] if len(changes) > 10 else []
        raise UsageError(
            f"{path} was made by another recipe and cannot be resumed with this one:\n"
            + "\n".join(changes[:10] + more)
            + "\nResume with the recipe in that folder, or run without --resume."
        )
    return path


def _identity(recipe: Recipe, cut: Mapping[str, Any]) -> dict[str, Any]:
    """All that a resumed run must have in common with the one it goes on with."""
    document = recipe.document()
    del document["tracking"], document["paper"]
    return {"recipe": document, **cut}


def _changes(path: Path, identity: Mapping[str, Any]) -> list[str]:
    """The options in which the run in ``path`` differs from one of this identity, a line each."""
    run = read_json(path / "state" / "run.json", {})
    run.pop(_ORIGIN, None)
    before, now = (defaultdict(lambda: "absent", flatten(one)) for one in (run, identity))
    return [
        f"  {key.removeprefix('recipe.')}: was {json.dumps(before[key])}, is {json.dumps(now[key])}"
        for key in before | now
        if before[key] != now[key]
    ]


def _is_draft(path: Path) -> bool:
    """True for what `robustprune.files.replacing` leaves of a file if it is killed."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def new_folder(parent: Path) -> Path:
    """A folder for a new run, named by the time."""
    name = time.strftime("%Y%m%d-%H%M%S")
    endings = ["", *(f"-{number}" for number in range(2, 100))]
    return next(path for end in endings if not (path := parent / f"{name}{end}").exists())
