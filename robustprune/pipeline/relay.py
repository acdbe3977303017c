"""From the main process, which alone touches the files of a run, to the others of the job."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel, rebuilt
from robustprune.pipeline.folder import RunFolder

if TYPE_CHECKING:
    from robustprune.shard import Shard

T = TypeVar("T")


def open_folder(
    make: Callable[[], RunFolder | None], *, shard: Shard, held: ExitStack
) -> RunFolder | None:
    """The run's folder, in the main process locked until ``held`` is closed.

    The others are told of its path only; nothing of it need be visible to them.

    Args:
        make: begins or reopens it, or finds that there is none.
        shard: this process.
        held: of the whole run.
    """
    made: list[RunFolder] = []

    def work() -> tuple[Path, bool] | None:
        folder = make()
        if folder is None:
            return None
        held.callback(folder.close)
        made.append(folder)
        return folder.path, folder.resumed

    told = shard.lead(work)
    if told is None or made:
        return made[0] if made else None
    path, resumed = told
    return RunFolder(path, resumed=resumed)


def in_turn(work: Callable[[], T], *, shard: Shard) -> T:
    """Let every process do something that may download, on each machine one before the others.

    Raises:
        UsageError: it finds the user's input at fault here.
        PeerError: it does so in another process.
    """
    if shard.world == 1:
        return work()
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    done = shard.together(lambda: [work()] if first else [])
    return shard.together(lambda: done[0] if done else work())


def read_saved(path: Path, *, shard: Shard) -> SavedModel:
    """A network that the main process has in a file; see `read_model`."""
    read: list[SavedModel] = []

    def work() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        saved = read_model(path)
        read.append(saved)
        return saved.metadata, dict(saved.model.state_dict()), saved.masks

    if shard.world == 1:
        return read_model(path)
    told = shard.lead(work)
    return read[0] if read else rebuilt(path, *told)
