"""The part ``steps`` of run.py: training steps beside the floor of plain torch.

Our side is the loop itself, in bf16 and channels-last, on one batch again and again; the floor is a
dense network's step with the same passes in the same precision (benchmarks/floors.py). They take
turns. cuDNN chooses its kernels by trial on both sides, where a run asks for deterministic ones,
which may be slower. Host waits are the times a step of ours stops until the GPU has answered.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from run import Job, job_of, options, record, records

sys.path.insert(0, str(Path(__file__).parents[1]))

from floors import OBJECTIVES, step_of
from prepared import prepared

from robustprune import objectives
from robustprune.datasets import Splits
from robustprune.datasets.source import TensorSource, TrainingBatch
from robustprune.models import create_model
from robustprune.recipe import StageOptions
from robustprune.tracking import Console
from robustprune.training.loop import Trainer

MODELS = ("vgg16_bn_cifar", "resnet18_cifar", "wrn_28_4")
BATCHES = (512, 128, 1024)
ROUNDS = 6
Setting = tuple[int, str, str, str]


def main(job: Job) -> None:
    path = job.work / "steps.jsonl"
    done = {tuple(entry["setting"]) for entry in records(path)}
    kinds = ("trades", "pgd", "benign")
    settings = itertools.product(BATCHES, MODELS, kinds, ("prune", "finetune"))
    failed = 0
    for setting in settings:
        if setting in done:
            continue
        if job.left <= 0:
            break
        try:
            entry = {"setting": setting, **measured(setting, job)}
        except Exception:  # the machine is there for minutes: the other settings are measured
            traceback.print_exc()
            failed += 1
            continue
        record(path, entry)
        print(entry, flush=True)
    if failed:
        sys.exit(f"{failed} settings failed")


def measured(setting: Setting, job: Job) -> dict[str, Any]:
    """Milliseconds and MiB of both sides, and their ratio."""
    batch, model, objective, stage = setting
    cuda = torch.cuda.is_available()
    if job.max_steps and not cuda:
        batch = min(batch, 16)
    rounds = job.max_steps or ROUNDS
    accelerator = Accelerator(cpu=not cuda, mixed_precision="bf16")
    torch.backends.cudnn.benchmark = True
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch) % 10
    placed = images.to(accelerator.device, memory_format=torch.channels_last)
    dense = create_model(model, num_classes=10).to(
        accelerator.device, memory_format=torch.channels_last
    )
    plain = step_of(OBJECTIVES[objective], dense, placed, labels.to(accelerator.device))

    def floor() -> None:
        with torch.autocast(accelerator.device.type, dtype=torch.bfloat16):
            plain()

    source = Turns(images, labels, 2 * rounds, floor)
    ours(source, accelerator, model, objective, stage)
    times = {side: statistics.median(times[rounds:]) for side, times in source.times.items()}
    found = {f"{side}_ms": 1000 * seconds for side, seconds in times.items()}
    found |= {"ratio": times["ours"] / times["floor"], "batch": batch}
    found |= {f"{side}_mib": peak / 2**20 for side, peak in source.peaks.items()}
    return found | {"host_waits": source.waits}


class Turns(TensorSource):
    """One batch again and again; while our loop waits for the next, the floor takes a step."""

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, steps: int, floor: Callable[[], None]
    ) -> None:
        super().__init__(images, labels)
        self.count, self.floor = steps, floor
        self.times: dict[str, list[float]] = {"ours": [], "floor": []}
        self.peaks = {"ours": 0, "floor": 0}
        self.waits: int | None = None

    def steps(self, batch_size: int, *, world: int = 1) -> int:
        return self.count

    def batches(self, batch_size: int, **options: Any) -> Iterator[TrainingBatch]:
        for number in range(self.count):
            with self._clocked("ours"), _counted(self, number == 1):
                yield TrainingBatch(self.images, self.labels, len(self.labels))
            with self._clocked("floor"):
                self.floor()

    @contextmanager
    def _clocked(self, side: str) -> Iterator[None]:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = perf_counter()
        yield
        if cuda:
            torch.cuda.synchronize()
            self.peaks[side] = torch.cuda.max_memory_allocated()
        self.times[side].append(perf_counter() - start)


@contextmanager
def _counted(source: Turns, now: bool) -> Iterator[None]:
    """Count the host's waits; torch warns of each when it is asked to."""
    if not now or not torch.cuda.is_available():
        yield
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield
        torch.cuda.set_sync_debug_mode("default")
    source.waits = len(seen)


def ours(source: Turns, accelerator: Accelerator, model: str, objective: str, stage: str) -> None:
    """Let the loop take the source's steps."""
    recipe = {
        name: StageOptions(epochs=1, batch_size=len(source)) for name in ("prune", "finetune")
    }
    network = create_model(model, num_classes=10).to(memory_format=torch.channels_last)
    found, masked, method = prepared(network, stage, density=0.1, options=recipe)
    attack = {} if objective == "benign" else {"eps": 8 / 255, "step_size": 2 / 255}
    trainer = Trainer(
        accelerator=accelerator,
        memory_format=torch.channels_last,
        objective=objectives.create(objective, **attack),
        data=Splits(source, None, None, num_classes=10, channels=3, image_size=32),
        seed=0,
        console=Console(quiet=True),
    )
    with TemporaryDirectory() as folder:
        trainer.train(model, found, masked, method, Path(folder) / "state.pt")


if __name__ == "__main__":
    main(job_of(options(__doc__).parse_args()))
