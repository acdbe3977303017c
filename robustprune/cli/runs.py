"""From what is typed for runs to their folders, on this machine or fetched from MLflow."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from robustprune.cli.typed import MLFLOW
from robustprune.errors import UsageError


@contextmanager
def run_folders(arguments: Namespace) -> Iterator[list[Path]]:
    """The folders of ``arguments.runs``; fetched ones are gone when the block ends.

    Args:
        arguments: ``runs``: run folders, ``results.json`` files, or ``mlflow:`` and the id or name
            of a parent run; ``uri``: the store's address, or None.

    Raises:
        UsageError: the store has no such run.
    """
    with TemporaryDirectory(prefix="robustprune-") as into:
        yield [
            _fetched(text.removeprefix(MLFLOW), arguments.uri, Path(into) / str(number))
            if text.startswith(MLFLOW)
            else Path(text)
            for number, text in enumerate(arguments.runs)
        ]


def _fetched(run: str, uri: str | None, into: Path) -> Path:
    from robustprune import tracking

    if not run:
        raise UsageError("mlflow: names no run. Write mlflow:<run id> or mlflow:<run name>.")
    into.mkdir()
    folder: Path = tracking.download_run(run, uri, into)
    return folder
