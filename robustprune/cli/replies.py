"""What a process that was started among several leaves behind in place of printing it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from robustprune.files import write_json

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
        if rank == 0 or self.code == 130:
            return self
        return replace(self, text=f"process {rank}: {self.text}")

    def leave(self) -> None:
        """Write it for the launcher."""
        write_json(_file(Path(os.environ[FOLDER]), int(os.environ["RANK"])), asdict(self))

    @classmethod
    def read(cls, folder: Path, *, rank: int) -> Reply | None:
        """The last reply of a process, if it has left one."""
        path = _file(folder, rank)
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


class ProcessError(Exception):
    """One of the processes that were launched has failed; carries its reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


def launched() -> bool:
    """Whether this process was launched by another one of ours, which tells how it ends."""
    return FOLDER in os.environ and "RANK" in os.environ


def _file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.json"
