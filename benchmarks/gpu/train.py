"""The part ``train`` of run.py: the recipe train.yaml, interrupted when time is up, and resumed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from run import Job, job_of, options

import robustprune as rp
from robustprune.errors import InterruptedRun

RECIPE = Path(__file__).with_name("train.yaml")
SAVING, PACKING = 5, 15
"""Seconds to save the state in when time is up, and to pack a network in."""


def main(job: Job) -> None:
    out = job.work / "train"
    changes = [f"data.root={_images(job).resolve()}"]
    if job.max_steps:
        changes += ["pretrain.epochs=1", "prune.epochs=1", "finetune.epochs=1"]
        if not torch.cuda.is_available():
            stages = ("pretrain", "prune", "finetune")
            changes += [f"{stage}.batch_size=16" for stage in stages]
            changes += [
                "data.subset=64",
                "evaluate=[{name: pgd, steps: 2, eps: 8/255, samples: 16}]",
            ]
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, max(job.left - SAVING, 0.1))
    try:
        rp.run(RECIPE, overrides=changes, out=out, fresh=True, resume=out.exists(),
               max_steps=job.max_steps)  # fmt: skip
    except (InterruptedRun, KeyboardInterrupt):  # the latter before anything was there to keep
        print("the time is up; the same command goes on", flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for model in sorted(out.glob("*/model.safetensors")):
        packed = model.with_name("model.packed.safetensors")
        if not packed.exists() and model.parent.name != "dense":
            if job.left < PACKING:
                print(f"no time left to pack {model.parent.name}", flush=True)
                break
            words = ["-m", "robustprune", "export", str(model), "--out", str(packed)]
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def _images(job: Job) -> Path:
    """The folder of CIFAR-10; to try things out, of a few made-up images like it."""
    if any(job.data.glob("train-*.parquet")):
        return job.data
    if not job.max_steps:
        sys.exit(f"{job.data}: no train-*.parquet of CIFAR-10 there. Name its folder with --data.")
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder = job.work / "made_up"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 200), ("test", 40)):
        rows = []
        for number in range(count):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "png")
            rows.append({"img": {"bytes": file.getvalue()}, "label": number % 10})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    print("no CIFAR-10 there: made-up images, of which no number means anything", flush=True)
    return folder


if __name__ == "__main__":
    main(job_of(options(__doc__).parse_args()))
