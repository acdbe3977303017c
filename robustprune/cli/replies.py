"""What a process that was started among several leaves behind in place of printing it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from robustprune.errors import SoundnessError
from robustprune.files import write_json

OK, FAULT, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""
FOLDER = "ROBUSTPRUNE_REPLIES"
"""The variable that names the folder of replies, in processes that we have launched."""


DIED = "died"
"""The kind of the reply that is made up for a process that left none."""


@dataclass(frozen=True)
class Reply:
    """How a process ended that did not end well.

    Attributes:
        code: its exit code.
        kind: the name of its error's class, or `DIED`.
        text: what there is to say.
        echo: whether it only ended because another process had failed.
        folder: of the run that can be gone on with; empty if there is none.
    """

    code: int
    kind: str
    text: str
    echo: bool = False
    folder: str = ""

    def of(self, rank: int) -> Reply:
        """The same, and which process says so, where that is not the main one."""
        if rank == 0 or self.code == INTERRUPTED:
            return self
        return replace(self, text=f"process {rank}: {self.text}")

    @property
    def final(self) -> bool:
        """Whether it would be the same if the processes were started anew."""
        return self.code in (USAGE, INTERRUPTED) or self.kind == SoundnessError.__name__

    def leave(self) -> None:
        """Write it for the launcher."""
        folder, rank = Path(os.environ[FOLDER]), int(os.environ["RANK"])
        write_json(folder / f"{_attempt()}-{rank}.json", asdict(self))

    @classmethod
    def read(cls, folder: Path, *, rank: int) -> Reply | None:
        """What a process said in the last attempt, if it has left anything."""
        attempts = [int(path.name.partition("-")[0]) for path in folder.glob("*-*.json")]
        path = folder / f"{max(attempts, default=0)}-{rank}.json"
        return cls._load(path) if path.exists() else None

    @classmethod
    def before(cls) -> Reply | None:
        """What ended an earlier attempt of this job for good, so that another is of no use."""
        if not launched() or _attempt() == 0:
            return None
        replies = [cls._load(path) for path in sorted(Path(os.environ[FOLDER]).glob("*-*.json"))]
        return next((reply for reply in replies if reply.final), None)

    @classmethod
    def _load(cls, path: Path) -> Reply:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class ProcessError(Exception):
    """One of the processes that were launched has failed; carries its reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


def launched() -> bool:
    """Whether this process was launched by another one of ours, which tells how it ends."""
    return FOLDER in os.environ and "RANK" in os.environ


def _attempt() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
