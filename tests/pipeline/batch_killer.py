"""Judge networks in forks of one process, and kill forks within a batch.

``python -m tests.pipeline.batch_killer FOLDER`` does each job undisturbed and killed twice, and
prints how every fork ended and which batches it began to judge. The libraries take seconds to
import, so they are imported once, and no computation happens before a fork.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from . import tiny
from .killer import die

Batch = tuple[str, int]
"""A metric and the number of a batch."""

AUTOATTACK = {"name": "autoattack", "eps": 0.2, "steps": 2, "samples": 32, "batch_size": 8}
SMOOTHING = {"name": "smoothing", "n0": 10, "n": 100, "samples": 30, "batch_size": 8}
RECIPE = {
    "pretrain": {"epochs": 1},
    "prune": None,
    "finetune": None,
    "evaluate": [{"name": "clean", "samples": 64}, AUTOATTACK, SMOOTHING],
}
DEATHS: list[Batch] = [("autoattack", 2), ("smoothing", 1)]


def attempt(words: Sequence[str | Path], death: Batch | None) -> dict[str, Any]:
    """Type a command in a fork, which dies within a batch if one is named."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as lines:
            judged = [json.loads(line) for line in lines]
        return {"end": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "judged": judged}
    code = 1
    try:
        watch(writing, death)
        from robustprune.cli import main

        code = main([str(word) for word in words])
    finally:
        sys.stderr.flush()
        os._exit(code)


def watch(to: int, death: Batch | None) -> None:
    """Tell of each batch that is begun, and die within one."""
    from robustprune.evaluators import base

    original = base.fork

    def fork(seed: int, network: str, metric: str, number: int) -> AbstractContextManager[int]:
        os.write(to, (json.dumps([metric, number]) + "\n").encode())
        if (metric, number) == death:
            die()
        return original(seed, network, metric, number)

    base.fork = fork


def main() -> None:
    import sklearn.datasets  # noqa: F401
    import timm  # noqa: F401
    import torch
    import torchattacks  # noqa: F401

    from robustprune.pipeline import run  # noqa: F401
    from robustprune.recipe import load_recipe

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    recipe = tiny.write(folder, RECIPE)
    load_recipe(recipe)  # imports the parts
    gc.freeze()
    run_it = ["run", recipe, "--quiet", "--fresh", "--out"]
    found = {"run": [attempt([*run_it, folder / "run-whole"], None)]}
    for death in (*DEATHS, None):
        resume = ["--resume"] if (folder / "run-killed").exists() else []
        found["run"].append(attempt([*run_it, folder / "run-killed", *resume], death))
    model = folder / "run-whole" / "dense" / "model.safetensors"
    few = ["--sigma", "0.25", "--n0", "10", "--n", "100", "--samples", "70"]
    for name, words, deaths in (
        ("evaluate", [model], DEATHS),
        ("certify", [model, *few], [("smoothing", 0), ("smoothing", 2)]),
    ):
        found[name] = []
        for where, death in (("whole", None), *(("killed", death) for death in (*deaths, None))):
            out = folder / f"{name}-{where}"
            state = ["--state", folder / f"{name}-state"] if where == "killed" else []
            files = ["--json", out.with_suffix(".json"), "--images", out.with_suffix(".parquet")]
            found[name].append(attempt([name, *words, *files, *state], death))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
