"""Judge one network by an attack and a certificate, in as many processes as are asked for.

``python -m tests.pipeline.processes FOLDER WORLD…`` prints, for each number of processes, what
each of them found. They are forks, which agree by gloo.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from robustprune.datasets.source import TensorSource
from robustprune.evaluators import create
from robustprune.pipeline.evaluate import judge
from robustprune.pipeline.evaluation_state import Subject
from robustprune.shard import Shard
from robustprune.tracking import Console

from ..evaluators.toys import relu, spread

EVALUATORS: list[dict[str, Any]] = [
    {"name": "pgd", "label": "pgd", "eps": 0.02, "steps": 4, "restarts": 2, "batch_size": 7},
    {"name": "smoothing", "sigma": 0.1, "n0": 10, "n": 300, "radius": 0.1, "batch_size": 7},
]


def found(shard: Shard) -> list[dict[str, Any]]:
    """What this process knows in the end, of each evaluator."""
    model = relu()
    subject = Subject(model, TensorSource(*spread(model)), network="dense", seed=3)
    verdicts = []
    for document in EVALUATORS:
        fields = {key: value for key, value in document.items() if key != "name"}
        evaluator = create(document["name"], **fields)
        _, entries = judge(
            evaluator,
            subject,
            device=torch.device("cpu"),
            console=Console(quiet=True),
            shard=shard,
        )
        images = {name: values.tolist() for name, values in entries.items()}
        verdicts.append({"metrics": evaluator.summarise(entries), "images": images})
    return verdicts


def joined(rank: int, world: int, meeting: Path) -> Shard:
    """The shard of this process, once the others are there."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)

    def gather(value: Any) -> list[Any]:
        values: list[Any] = [None] * world
        dist.all_gather_object(values, value)
        return values

    return Shard(rank, world, gather=gather, broadcast=lambda value: gather(value)[0])


def processes(world: int, folder: Path, work: Callable[[Shard], int | None]) -> list[int]:
    """Do some work in forks, and give their exit codes; they meet in ``folder``."""
    children = [_fork(rank, world, folder, work) for rank in range(world)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _fork(rank: int, world: int, folder: Path, work: Callable[[Shard], int | None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        shard = Shard() if world == 1 else joined(rank, world, folder / f"meeting-{world}")
        code = work(shard) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    folder, worlds = Path(sys.argv[1]), [int(word) for word in sys.argv[2:]]

    def work(shard: Shard) -> None:
        (folder / f"{shard.world}-{shard.rank}.json").write_text(json.dumps(found(shard)))

    for world in worlds:
        assert processes(world, folder, work) == [0] * world
    files = {world: [folder / f"{world}-{rank}.json" for rank in range(world)] for world in worlds}
    print(json.dumps({n: [json.loads(p.read_text()) for p in some] for n, some in files.items()}))


if __name__ == "__main__":
    main()
