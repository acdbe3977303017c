"""Judge a saved network from the command line in two processes, which are stopped once.

``python -m tests.cli.processes MODEL FOLDER`` prints exit codes. They are forks, which agree by
gloo; each asks for files of its own, of which the main process's alone are to be written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from robustprune.cli import main as robustprune
from robustprune.evaluators import base
from robustprune.pipeline.compute import Compute
from robustprune.recipe import ComputeOptions
from robustprune.shard import Shard

from ..pipeline.processes import processes

WORDS = ["--evaluator", "clean:batch_size=16", "--evaluator", "pgd:eps=0.1,steps=2,batch_size=8"]


def typed(shard: Shard, model: Path, out: Path, *, stop: int | None) -> int:
    """The command in one process; all are interrupted in the round of a batch of the attack."""
    began, fork = Compute.__init__, base.fork

    def init(self: Compute, options: ComputeOptions) -> None:
        began(self, options)
        self.shard = shard

    def stopping(seed: int, network: str, metric: str, number: int) -> object:
        if stop is not None and metric == "pgd" and number >= stop:
            raise KeyboardInterrupt
        return fork(seed, network, metric, number)

    Compute.__init__ = init  # type: ignore[method-assign]
    base.fork = stopping  # type: ignore[assignment]
    files = ["--json", f"{out}-{shard.rank}.json", "--images", f"{out}-{shard.rank}.csv"]
    state = ["--state", f"{out}-state", "--samples", "60"]
    return robustprune(["evaluate", str(model), *WORDS, *files, *state])


def main() -> None:
    torch.set_num_threads(1)
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    codes = {}
    for name, world, stop in (("alone", 1, None), ("stopped", 2, 4), ("stopped", 2, None)):
        meeting = folder / f"meeting-{len(codes)}"
        meeting.mkdir()

        def work(shard: Shard, name: str = name, stop: int | None = stop) -> int:
            return typed(shard, model, folder / name, stop=stop)

        codes[f"{name} {stop}"] = processes(world, meeting, work)
        if stop is not None:
            kept = sorted(path.name for path in (folder / f"{name}-state" / "pgd").iterdir())
            codes["kept"] = kept  # type: ignore[assignment]
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
