"""How many of our files one prune step passes, and how often it goes from one to another.

    python benchmarks/files_per_step.py
    python benchmarks/files_per_step.py --objective pgd --stage finetune

HYDRA learns scores of CNN-small under TRADES-10, on random images, by the loop itself. After two
steps to warm up, one optimizer step is followed: `Stepper.step`, from a batch to the masks that
follow from it. Each file of ours in which a function is called counts once, each call into, or
return to, another one is a change. The loop around it, which fetches batches and shows progress, is
listed apart. Nothing is recorded; ``--most`` makes it fail above so many files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from prepared import STAGES, prepared

import robustprune
from robustprune.datasets import Splits
from robustprune.datasets.source import TensorSource, TrainingBatch
from robustprune.models import create_model
from robustprune.objectives import create
from robustprune.recipe import StageOptions
from robustprune.tracking import Console
from robustprune.training.loop import Trainer
from robustprune.training.step import Stepper

OURS = str(Path(robustprune.__file__).parent)
WARM_UP = 2
PROMISED = 10


class Followed(TensorSource):
    """One batch again and again; the step after the first few is followed.

    Attributes:
        calls: of each file, below the package, in the order of the first one.
        around: the same of what is called outside of the step.
        changes: times that the step went from one file to another.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__(images, labels)
        self.calls: dict[str, int] = {}
        self.around: dict[str, int] = {}
        self.changes, self._inside = 0, False
        self._last: str | None = None

    def steps(self, batch_size: int, *, world: int = 1) -> int:
        return WARM_UP + 1

    def batches(self, batch_size: int, **options: Any) -> Iterator[TrainingBatch]:
        for number in range(WARM_UP + 1):
            if number == WARM_UP:
                sys.setprofile(self._note)
            yield TrainingBatch(self.images, self.labels, len(self.labels))
            sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code is Stepper.step.__code__ and event in ("call", "return"):
            self._inside = event == "call"
        if event == "return" and frame.f_back is not None:
            file = frame.f_back.f_code.co_filename
        else:
            file = frame.f_code.co_filename
        if not file.startswith(OURS) or event not in ("call", "return"):
            return
        name = file.removeprefix(OURS).lstrip("/")
        if event == "call":
            counts = self.calls if self._inside else self.around
            counts[name] = counts.get(name, 0) + 1
        self.changes += self._inside and self._last not in (None, name)
        self._last = name


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    labels = torch.arange(arguments.batch) % 10
    source = Followed(torch.rand(arguments.batch, 3, 32, 32), labels)
    options = dict.fromkeys(STAGES, StageOptions(epochs=1, batch_size=arguments.batch))
    model, objective = create_model("cnn_small", num_classes=10), create(arguments.objective)
    stage, masked, method = prepared(model, arguments.stage, options=options, objective=objective)
    trainer = Trainer(
        accelerator=Accelerator(cpu=True),
        objective=objective,
        data=Splits(source, None, None, num_classes=10, channels=3, image_size=32),
        seed=0,
        console=Console(quiet=True),
    )
    with TemporaryDirectory() as folder:
        trainer.train("hydra", stage, masked, method, Path(folder) / "state.pt")
    for name, calls in source.calls.items():
        print(f"{calls:6} calls  {name}")
    print(f"{len(source.calls)} files, {source.changes} changes; promised: {PROMISED} files")
    beside = [name for name in source.around if name not in source.calls]
    print(f"the loop around it: {', '.join(beside)}")
    if len(source.calls) > arguments.most:
        raise SystemExit(f"more than {arguments.most} files")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objective", default="trades")
    parser.add_argument("--stage", default="prune", choices=STAGES)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--most", type=int, default=sys.maxsize, help="fail above so many files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
