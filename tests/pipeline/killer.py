"""Run a recipe in forks of one process, and kill each fork at an exact moment.

``python -m tests.pipeline.killer RECIPE FOLDER`` runs it undisturbed in FOLDER/whole, then in
FOLDER/killed, resuming after each kill, and prints how each fork ended. The libraries take seconds
to import, so they are imported once, and no computation happens before a fork.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from .steps import network_of

Arm = Callable[[], None]


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def calling(owner: Any, method: str, number: int = 1, *, of: str = "") -> Arm:
    """Die at the ``number``-th call of a method, or of a hook in a stage that is named."""

    def arm() -> None:
        original, left = getattr(owner, method), [number]

        def deadly(self: Any, *args: Any, **options: Any) -> Any:
            left[0] -= not of or f"{network_of(self)}.{args[0].name}".endswith(of)
            if not left[0]:
                die()
            return original(self, *args, **options)

        setattr(owner, method, deadly)

    return arm


def replacing(target: str, number: int = 1, *, after: bool = False) -> Arm:
    """Die before (or just after) a finished draft takes its place for the ``number``-th time."""

    def arm() -> None:
        original, left = os.replace, [number]

        def deadly(source: Any, destination: Any) -> None:
            left[0] -= str(destination).endswith(target)
            if not left[0] and not after:
                die()
            original(source, destination)
            if not left[0]:
                die()

        os.replace = deadly  # type: ignore[assignment]

    return arm


def half_written() -> None:
    """Die when half of a stage's state is on the disk."""
    import torch

    original = torch.save

    def deadly(value: Any, file: BinaryIO) -> None:
        original(value, file)
        file.truncate(file.tell() // 2)
        die()

    torch.save = deadly  # type: ignore[assignment]


def unlinking(suffix: str, number: int) -> Arm:
    """Die before the ``number``-th file with this suffix is deleted."""

    def arm() -> None:
        original, left = Path.unlink, [number]

        def deadly(self: Path, missing_ok: bool = False) -> None:
            left[0] -= self.suffix == suffix
            if not left[0]:
                die()
            original(self, missing_ok)

        Path.unlink = deadly  # type: ignore[method-assign]

    return arm


def points() -> dict[str, Arm]:
    """Each moment, in the order in which a run that is resumed passes them."""
    import torchattacks

    from robustprune.pruners import Method
    from robustprune.pruners.hydra import HydraMethod
    from robustprune.pruners.magnitude import MagnitudeMethod

    return {
        "before anything is written": replacing("run.json"),
        "before the recipe is written": replacing("recipe.yaml"),
        "in the first epoch of pretraining": calling(Method, "step", 2, of="pretrain"),
        "with half a state written": half_written,
        "after a state, before its curve": replacing("dense.pretrain.pt", 2, after=True),
        "before the dense network is in place": replacing("dense/model.safetensors"),
        "within AutoAttack on the dense network": calling(torchattacks.APGD, "get_logits", 3),
        "before AutoAttack's results are in place": replacing("dense/images.parquet"),
        "before pruning begins": calling(HydraMethod, "begin"),
        "while pruning begins": calling(HydraMethod, "select", of="hydra-0.5.prune"),
        "before pruning's beginning is in place": replacing("hydra-0.5.prune.pt"),
        "in the second epoch of pruning": calling(Method, "step", 3, of="prune"),
        "after the first state of finetuning": replacing("hydra-0.5.finetune.pt", after=True),
        "in the second network's finetuning": calling(Method, "step", 3, of="hydra-0.1.finetune"),
        "within AutoAttack on a pruned network": calling(torchattacks.APGD, "get_logits", 3),
        "while magnitude begins": calling(MagnitudeMethod, "keep"),
        "after magnitude has begun": replacing("magnitude-0.5.finetune.pt", after=True),
        "before results are in place": replacing("results.json", 12),
        "while states are deleted": unlinking(".pt", 2),
        "before the end is noted": replacing("finished"),
    }


def attempt(recipe: Path, out: Path, arm: Arm | None) -> int:
    """Run or resume in a fork; minus the signal that killed it, or its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        from robustprune.cli import main

        signal.alarm(60)
        if arm is not None:
            arm()
        resume = ["--resume"] if out.exists() else []
        code = main(["run", str(recipe), "--out", str(out), "--quiet", "--fresh", *resume])
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    import accelerate.accelerator  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import timm  # noqa: F401
    import torch

    from robustprune.pipeline import run  # noqa: F401
    from robustprune.recipe import load_recipe

    torch.set_num_threads(1)
    recipe, folder = Path(sys.argv[1]), Path(sys.argv[2])
    load_recipe(recipe)  # imports the parts
    moments = points()
    gc.freeze()
    ends = {"undisturbed": attempt(recipe, folder / "whole", None)}
    for moment, arm in moments.items():
        ends[moment] = attempt(recipe, folder / "killed", arm)
    ends["the last time"] = attempt(recipe, folder / "killed", None)
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
