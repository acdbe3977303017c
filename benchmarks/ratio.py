"""Common ground of every benchmark of speed: two sides that alternate in one run, and their ratio.

The machine is shared and noisy, so seconds mean little; the ratio of the medians of sides that took
turns means more. Each results file holds every single time.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from robustprune.pipeline.results import environment

RESULTS = Path(__file__).parent / "results" / "speed"
Times = dict[str, list[float]]


def alternate(sides: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> Times:
    """Seconds of each side, by turns, those of the warm-up left out."""
    times: Times = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, side in sides.items():
            start = perf_counter()
            side()
            if turn >= warm_up:
                times[name].append(perf_counter() - start)
    return times


def ratio(times: Times, side: str, other: str) -> float:
    """The median of one side's times over the other's."""
    return statistics.median(times[side]) / statistics.median(times[other])


class Peak:
    """The growth of this process's peak memory since this was made; Linux only.

    A process's own account of its peak (ru_maxrss) starts at that of the one that started it.
    """

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
        self._before = self._high()

    def mib(self) -> float:
        """So far."""
        return (self._high() - self._before) / 1024

    @staticmethod
    def _high() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def write(name: str, title: str, command: str, rows: list[dict[str, Any]], text: str) -> None:
    """Write ``<name>.json`` and ``<name>.md``, and print the latter.

    Args:
        name: of the files.
        title: the page's heading.
        command: that gave the numbers.
        rows: what was measured, with all times.
        text: the table and what is to be said about it.
    """
    words = command.split()
    if "--reference" in words:  # where it lies is nobody else's concern
        words[words.index("--reference") + 1] = "PATH"
    command = " ".join(words)
    RESULTS.mkdir(parents=True, exist_ok=True)
    about = environment(torch.device("cpu"))
    document = {"command": command, "environment": about, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    versions = ", ".join(f"{key} {value}" for key, value in about.items())
    page = f"# {title}\n\n`{command}`\n\n{versions}.\n\n{text}\n"
    (RESULTS / f"{name}.md").write_text(page)
    print(page, flush=True)


def table(heads: list[str], rows: Iterable[list[str]], *, numbers: int | None = None) -> str:
    """A Markdown table; its last ``numbers`` columns, or all but the first, are aligned right."""
    words = 1 if numbers is None else len(heads) - numbers
    cells = [heads, ["---"] * words + ["---:"] * (len(heads) - words), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
