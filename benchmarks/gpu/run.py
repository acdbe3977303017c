"""Facts to be known of a GPU, in a few minutes and without a network.

    bash benchmarks/gpu/run.sh --seconds 600 --out .gpu
    bash benchmarks/gpu/run.sh --seconds 90 --max-steps 2      # to try it on a CPU

Three parts, one after the other or one alone by --part:

    tests   tests/gpu: what holds on a CPU holds there, too
    steps   time and memory of training steps beside the floor of plain torch
    train   VGG16 on CIFAR-10, adversarially, pruned by HYDRA and by magnitude, and attacked

It stops at its time limit, and may be killed at any moment: what is finished is in DIR, and the
same command goes on there. DIR holds at most eight files to bring back, each below 15 MB, and
DIR/work stays. Needed are torch and torchvision, and what `pack.py` packed of what is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpack import unpack

ROOT = Path(__file__).parents[2]
PARTS = {"tests": 0.4, "steps": 0.4, "train": 1.0}
"""The parts, and the share that each may take of the time that is left."""


@dataclass(frozen=True)
class Job:
    """Arguments of the parts.

    Attributes:
        out: where files to bring back go.
        work: what stays: records of what is finished, and the training.
        data: CIFAR-10's parquet files.
        deadline: on `time.monotonic`'s clock.
        max_steps: cuts everything, and on a CPU the batch to 16.
    """

    out: Path
    work: Path
    data: Path
    deadline: float
    max_steps: int | None

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


def main() -> None:
    arguments = _arguments()
    start = time.monotonic()
    work = arguments.out / "work"
    packed = unpack(work)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    data = arguments.data or packed
    job = Job(arguments.out, work, data, start + arguments.seconds, arguments.max_steps)
    describe(work)
    failed: list[str] = []
    for part, share in [(arguments.part, 1.0)] if arguments.part else PARTS.items():
        print(f"{part}: {share * job.left:.0f} of {job.left:.0f} s", flush=True)
        if job.left > 0 and not _run(part, job, share * job.left):
            failed.append(part)
        summarise(job)
    print(f"written to {arguments.out}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(part: str, job: Job, seconds: float) -> bool:
    # each part in a process of its own: the memory of one is not another's
    options = ["--out", str(job.out), "--data", str(job.data), "--seconds", f"{seconds:.1f}"]
    options += ["--max-steps", str(job.max_steps)] if job.max_steps else []
    command = [sys.executable, str(ROOT / f"benchmarks/gpu/{part}.py"), *options]
    return subprocess.run(command, cwd=ROOT).returncode == 0


def describe(work: Path) -> None:
    """Keep what the machine is."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "cpu"
    versions = {"torch": torch.__version__, "python": sys.version.split()[0]}
    (work / "machine.json").write_text(json.dumps({"device": device, **versions}))


def summarise(job: Job) -> None:
    """Write ``gpu.json`` and bring packed weights up beside it."""
    summary: dict[str, Any] = {"machine": json.loads((job.work / "machine.json").read_text())}
    for part in ("tests", "steps"):
        summary[part] = records(job.work / f"{part}.jsonl")
    results = job.work / "train" / "results.json"
    if results.exists():
        summary["train"] = json.loads(results.read_text())
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / "gpu.json").write_text(json.dumps(summary, indent=1))
    for packed in sorted(job.work.glob("train/*/model.packed.safetensors"))[:6]:
        if packed.stat().st_size < 15_000_000:
            shutil.copy(packed, job.out / f"{packed.parent.name}.packed.safetensors")


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a record; one that a kill cut short is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def record(path: Path, entry: dict[str, Any]) -> None:
    """Add a line, on the disk before it counts."""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(entry))
        file.flush()
        os.fsync(file.fileno())


def job_of(arguments: argparse.Namespace) -> Job:
    """For a part that is started on its own."""
    deadline = time.monotonic() + arguments.seconds
    work = arguments.out / "work"
    return Job(arguments.out, work, arguments.data, deadline, arguments.max_steps)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--part", choices=PARTS, help="one alone (default: all)")
    return parser.parse_args()


def options(about: str | None) -> argparse.ArgumentParser:
    """The options that all parts have."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, required=True, help="time limit")
    parser.add_argument("--out", type=Path, default=Path(".gpu"), metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10's parquet files")
    parser.add_argument("--max-steps", type=int, metavar="N", help="cut everything")
    return parser


if __name__ == "__main__":
    main()
