"""Where the commands that judge a saved network keep what they have judged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from robustprune.errors import UsageError
from robustprune.files import lock
from robustprune.pipeline.progress import clear

_LOCK = "lock"
_OURS = "made-by-robustprune"


class StateFolder:
    """A folder of the user's choice: a folder an evaluator in it, and nothing when all is done.

    Args:
        path: the folder; made if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Nothing is touched yet; see `open`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let other processes in again."""
        self._held.close()

    def open(self) -> None:
        """Make sure that it can be written, and keep other processes out.

        Raises:
            UsageError: it cannot be written, or another process is at work in it.
        """
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True)
                (self.path / _OURS).touch()
            with tempfile.NamedTemporaryFile(dir=self.path):
                pass
            self._held.enter_context(lock(self.path / _LOCK, wait=False))
        except BlockingIOError:
            raise UsageError(
                f"--state {self.path}: another process is at work there. Wait for it, or name "
                "another folder."
            ) from None
        except OSError as error:
            raise UsageError(
                f"--state {self.path}: cannot be written ({error.strerror}). Name another folder."
            ) from None

    def judged(self, metric: str) -> Path:
        """The batches that an evaluator has judged."""
        return self.path / metric

    def remove(self, metrics: Iterable[str]) -> None:
        """Drop what these evaluators have left, and the folder if it was made by `open`."""
        for metric in metrics:
            clear(self.judged(metric))
        (self.path / _LOCK).unlink(missing_ok=True)
        ours = self.path / _OURS
        if [*self.path.iterdir()] == [ours]:
            ours.unlink()
            with suppress(OSError):
                self.path.rmdir()
