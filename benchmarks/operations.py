"""Which operators an objective calls beyond those of its floor: counts, so that no clock is asked.

    python benchmarks/operations.py

One optimizer step of an objective and one of its floor (floors.py), each on a dense CNN-small,
under torch's profiler. Those are listed whose counts differ by more than bookkeeping.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from floors import OBJECTIVES, step_of
from ratio import table, write
from step import OPTIONS
from torch.profiler import ProfilerActivity, profile

from robustprune.models import create_model
from robustprune.objectives import create
from robustprune.types import Progress

_BOOKKEEPING = ("detach", "aten::detach", "aten::to", "aten::_to_copy", "aten::empty_strided")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    rows = [measure(objective, arguments.batch) for objective in OBJECTIVES]
    cells = [
        [row["objective"], str(row["floor"]), str(row["ours"]), _shown(row["more"])] for row in rows
    ]
    heads = ["objective", "operators, floor", "operators, ours", "which, floor → ours"]
    command = " ".join(["python benchmarks/operations.py", *sys.argv[1:]])
    write("operations", "Operators of a step", command, rows, table(heads, cells))


def measure(name: str, batch: int) -> dict[str, Any]:
    """The operators of one objective's step, and of its floor's."""
    images, labels = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10
    floor = _counts(step_of(OBJECTIVES[name], create_model("cnn_small"), images, labels))
    ours = _counts(_step(name, images, labels))
    differing = {
        key: [floor.get(key, 0), ours.get(key, 0)]
        for key in sorted(floor.keys() | ours.keys())
        if floor.get(key, 0) != ours.get(key, 0) and key not in _BOOKKEEPING
    }
    totals = {"floor": sum(floor.values()), "ours": sum(ours.values())}
    return {"objective": name, **totals, "more": differing}


def _step(name: str, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    network, objective = create_model("cnn_small").train(), create(name, **OPTIONS[name])
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        objective(network, images, labels, Progress()).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _counts(step: Callable[[], None]) -> dict[str, int]:
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    return {entry.key: entry.count for entry in found.key_averages()}


def _shown(more: dict[str, list[int]]) -> str:
    return ", ".join(f"{k.removeprefix('aten::')} {a} → {b}" for k, (a, b) in more.items())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    return parser.parse_args()


if __name__ == "__main__":
    main()
