"""The end of a command: its exit code, and what there is to say.

A process that a launcher of ours has started writes its outcome into a folder in place of printing
it, and the launcher tells the one that matters.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from robustprune import errors
from robustprune.files import FULL, write_json
from robustprune.paths import reason

OK, FAULT, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""
FOLDER = "ROBUSTPRUNE_OUTCOMES"
"""The variable that names the folder of outcomes, in processes that we have launched."""
DIED = "died"
"""The kind of the outcome that is made up for a process that wrote none."""

_MOST_LINES = 24  # with one that says how many more there are: one screen
_UNUSABLE = (PermissionError, IsADirectoryError, NotADirectoryError)
_LOST = ("torch.distributed.dist", "gloo", "nccl", "connection closed")


@dataclass(frozen=True)
class Outcome:
    """The end of a process that did not end well.

    Attributes:
        code: its exit code.
        kind: the name of its error's class, or `DIED`.
        text: what there is to say.
        echo: true if it only ended because another process had failed.
    """

    code: int
    kind: str
    text: str
    echo: bool = False

    def is_of(self, *kinds: type[BaseException]) -> bool:
        """Return whether its error was one of ``kinds``; subclasses do not count."""
        return self.kind in [kind.__name__ for kind in kinds]

    def of(self, rank: int) -> Outcome:
        """Return the same, with the process that says so where that is not the main one."""
        if rank == 0 or self.code == INTERRUPTED:
            return self
        return replace(self, text=f"process {rank}: {self.text}")

    def write(self) -> None:
        """Write it for the launcher."""
        write_json(Path(os.environ[FOLDER]) / f"{_attempt()}-{rank()}.json", asdict(self))

    @classmethod
    def read(cls, folder: Path, *, rank: int) -> Outcome | None:
        """Return what a process wrote in the last attempt, if it wrote anything."""
        attempts = [int(path.name.partition("-")[0]) for path in folder.glob("*-*.json")]
        path = folder / f"{max(attempts, default=0)}-{rank}.json"
        return cls(**json.loads(path.read_bytes())) if path.exists() else None

    @classmethod
    def earlier(cls) -> Outcome | None:
        """Return what ended an earlier attempt of this job for good: it would end this one, too."""
        if launched() and _attempt() > 0:
            for path in sorted(Path(os.environ[FOLDER]).glob("*-*.json")):
                outcome = cls(**json.loads(path.read_bytes()))
                if outcome.code in (USAGE, INTERRUPTED) or outcome.is_of(errors.SoundnessError):
                    return outcome
        return None


class CommandError(Exception):
    """A command, or one of the processes that it launched, has ended with this outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


def outcome_of(error: BaseException) -> Outcome:
    """Return the exit code of an error, and what is to be said of it."""
    kind = type(error).__name__
    if isinstance(error, CommandError):
        return error.outcome
    if isinstance(error, errors.UsageError):
        return Outcome(USAGE, kind, f"error: {_own_place(error)}{_on_one_screen(error)}")
    if isinstance(error, KeyboardInterrupt):
        kept = f"; what was finished is kept.\n{error}"
        text = f"interrupted{kept if isinstance(error, errors.InterruptedRun) else '.'}"
        return Outcome(INTERRUPTED, kind, text, echo=True)
    if isinstance(error, errors.SoundnessError | errors.PeerError):
        return Outcome(FAULT, kind, f"error: {error}", echo=isinstance(error, errors.PeerError))
    if _lost_connection(error):
        text = f"error: another process does not answer any more: {errors.first_line(error)}"
        return Outcome(FAULT, kind, text, echo=True)
    if text := _of_system(error):
        return Outcome(USAGE, kind, f"error: {text}")
    from robustprune.recipe.imports import blamed  # torch comes with it

    if text := blamed(error):
        return Outcome(USAGE, errors.OwnCodeError.__name__, f"error: {text}\nMend the file.")
    trace = "".join(traceback.format_exception(error))
    fault = "this is a fault of robustprune, not of your input. Please report it."
    return Outcome(FAULT, kind, f"{trace}error: {fault}")


def _own_place(error: errors.UsageError) -> str:
    """The line of the user's own file whose call was refused, where a file was imported."""
    imports = sys.modules.get("robustprune.recipe.imports")  # torch comes with it
    place = imports.passed_through(error) if imports else ""
    return f"{place}: " if place else ""


def resumable(outcome: Outcome, words: Sequence[str]) -> Outcome:
    """Return the same, with the line that goes on: the words of the command, and ``--resume``."""
    line = shlex.join(["robustprune", *(word for word in words if word != "--resume"), "--resume"])
    if outcome.code == INTERRUPTED:
        text = f"interrupted; what was finished is kept.\nResume with: {line}"
    elif outcome.is_of(errors.FullDiskError):
        text = f"{outcome.text} with: {line}"
    else:
        text = f"{outcome.text} What was finished is kept. Resume with: {line}"
    return replace(outcome, text=text)


def launched() -> bool:
    """Return whether a launcher of ours started this process; that one says how it ends."""
    return FOLDER in os.environ and "RANK" in os.environ


def rank() -> int:
    """Return the number of this process among those of its job; 0 is the main one's."""
    return int(os.environ.get("RANK", "0"))


def _attempt() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _on_one_screen(error: errors.UsageError) -> str:
    lines, problems = str(error).splitlines(), getattr(error, "problems", ())
    if len(problems) > 1:
        lines.insert(0, f"{len(problems)} problems:")
    if (more := len(lines) - _MOST_LINES) > 0:
        lines[_MOST_LINES:] = [f"… and {more} lines more"]
    return "\n".join(lines)


def _of_system(error: BaseException) -> str:
    """Say what to do about a full disk or an unusable path; nothing about any other error."""
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if number in FULL:
        return f"{FULL[number]} ({file}). Make room and resume."
    if number == errno.EROFS:
        return f"the disk has become read-only ({file}). Mend that and resume."
    unusable = isinstance(error, _UNUSABLE) or number in (errno.ENAMETOOLONG, errno.ELOOP)
    if isinstance(error, OSError) and unusable and file is not None:
        return f"{file}: {reason(error)}. Name another path, or mend that."
    return ""


def _lost_connection(error: BaseException) -> bool:
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    words = f"{type(error)} {error}".lower()
    return several and isinstance(error, RuntimeError) and any(word in words for word in _LOST)
