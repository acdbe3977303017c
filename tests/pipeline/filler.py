"""Run a recipe in forks of one process, on a small disk that becomes full at exact moments.

``python -m tests.pipeline.filler STORY RECIPE DISK FOLDER`` mounts a tmpfs at DISK, which needs a
mount namespace of its own, tells the recipe's story there, and prints what happened to each fork.
The libraries take seconds to import, so they are imported once.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .steps import network_of

Arm = Callable[[], None]
SIZE = {"interrupted": 6 * 2**20, "tracked": 12 * 2**20}
LITTLE = 2**18


class Disk:
    """A tmpfs, and a file on it that leaves no room."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.filler = path, path / "filler"
        path.mkdir(exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def fill(self, *, leave: int = 0) -> None:
        room = os.statvfs(self.path)
        size = room.f_bavail * room.f_frsize - leave
        with self.filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def empty(self) -> None:
        self.filler.unlink(missing_ok=True)

    def read_only(self, yes: bool) -> None:
        self._mount("-o", f"remount,{'ro' if yes else 'rw'}")

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, self.path], check=True)


def before(owner: Any, method: str, act: Arm, number: int = 1, *, of: str = "") -> Arm:
    """Act before the ``number``-th call of a function, or of a hook in a stage that is named."""

    def arm() -> None:
        original, left = getattr(owner, method), [number]

        def disturbed(*args: Any, **options: Any) -> Any:
            left[0] -= not of or f"{network_of(args[0])}.{args[1].name}" == of
            if not left[0]:
                left[0] = -1
                act()
            return original(*args, **options)

        setattr(owner, method, disturbed)

    return arm


def moments(disk: Disk) -> dict[str, Arm]:
    """When the disk becomes full, in the order in which a resumed run passes them."""
    from robustprune.masking import MaskedModel
    from robustprune.pipeline.images import ImageTable
    from robustprune.pruners import Method

    return {
        "in an epoch": before(Method, "step", disk.fill, 3, of="dense.pretrain"),
        "before an evaluation is written": before(ImageTable, "write", disk.fill),
        "before a pruned network is written": before(MaskedModel, "bake", disk.fill),
    }


class Forks:
    """Commands, each in a fork of its own; ``folder`` is for what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, place: Path, *words: str, arm: Arm | None = None) -> dict[str, Any]:
        """Exit code and standard error of a command that is typed in ``place``."""
        said = self.folder / "stderr"
        child = os.fork()
        if not child:
            self._type(place, words, said, arm)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {"code": code, "said": said.read_text()}

    def _type(self, place: Path, words: tuple[str, ...], said: Path, arm: Arm | None) -> None:
        code = 99
        try:
            os.chdir(place)
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            from robustprune.cli import main

            if arm is not None:
                arm()
            code = main(["run", *words, "--quiet"])
        finally:
            sys.stderr.flush()
            os._exit(code)


def tracked(recipe: str, disk: Disk, folder: Path) -> dict[str, Any]:
    """The disk that becomes full is the store's, too."""
    typed = Forks(folder)
    moment = "in an epoch"
    told = {moment: typed(disk.path, recipe, "--out", "run", arm=moments(disk)[moment])}
    disk.empty()
    told["the last time"] = typed(disk.path, recipe, "--out", "run", "--resume")
    return told


def interrupted(recipe: str, disk: Disk, folder: Path) -> dict[str, Any]:
    """Everything that is tried, and how it ended."""
    typed, places = Forks(folder), {"whole": folder, "patched": disk.path}
    told = {"undisturbed": typed(folder, recipe, "--out", "run")}
    disk.fill(leave=LITTLE)
    told["too small"] = typed(disk.path, recipe, "--out", "run")
    told["too small"]["left"] = [path.name for path in disk.path.iterdir()]
    disk.empty()
    disk.read_only(True)
    told["read-only"] = typed(disk.path, recipe, "--out", "run")
    told["read-only shared"] = typed(disk.path, recipe, "--out", str(folder / "elsewhere"))
    place, on = str(folder / "tracked"), "tracking.enabled=true"
    told["read-only store"] = typed(disk.path, recipe, "--out", place, "--set", on)
    disk.read_only(False)
    for moment, arm in moments(disk).items():
        resume = ["--resume"] if (disk.path / "run").exists() else []
        told[moment] = typed(disk.path, recipe, "--out", "run", *resume, arm=arm)
        if not resume:
            told["still full"] = typed(disk.path, recipe, "--out", "run", "--resume")
            disk.empty()
            disk.read_only(True)
            told["read-only resume"] = typed(disk.path, recipe, "--out", "run", "--resume")
            disk.read_only(False)
        disk.empty()
    told["the last time"] = typed(disk.path, recipe, "--out", "run", "--resume")
    for name, place in places.items():
        run = place / "run"
        files = sorted(path for path in run.rglob("*") if path.is_file())
        told[name] = {str(path.relative_to(run)): path.read_bytes().hex() for path in files}
    return told


def main() -> None:
    import accelerate.accelerator  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import timm  # noqa: F401
    import torch
    import torchattacks  # noqa: F401

    from robustprune.pipeline import run  # noqa: F401
    from robustprune.recipe import load_recipe

    torch.set_num_threads(1)
    story, recipe, disk, folder = sys.argv[1:]
    load_recipe(recipe)  # imports the parts
    gc.freeze()
    tell = {"interrupted": interrupted, "tracked": tracked}[story]
    print(json.dumps(tell(recipe, Disk(Path(disk), SIZE[story]), Path(folder))))


if __name__ == "__main__":
    main()
