"""What else a run does beside its steps: reading images, drawing, comparing, saving and judging."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from scaling_costs import Setting, state_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robustprune.datasets.folder import FolderSource
from robustprune.datasets.source import DRAWS, fingerprint
from robustprune.evaluators import Evaluator

WIDTH, HEIGHT, QUALITY = 500, 375, 90
"""ImageNet's mean image is 500 x 375 in some 110 kB; noise and quality are chosen to come near."""


def reading(*, files: int, size: int, rounds: int) -> dict[str, float]:
    """Images a second of one core, through the code that training reads with."""
    generator = np.random.default_rng(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{number}.jpg")) for number in range(files)]
        for path in paths:
            _photograph(generator).save(path, quality=QUALITY)
        kilobytes = sum(Path(path).stat().st_size for path in paths) / files / 1000
        labels, every = torch.zeros(files, dtype=torch.int64), torch.arange(files)
        options = {"size": size, "resize": size * 256 // 224, "workers": 0}
        source = FolderSource(paths, labels, augment=True, **options)  # type: ignore[arg-type]
        draws = torch.randint(2**62, (files, DRAWS))
        seconds = _median(lambda: source.read(every, draws), rounds)
    torch.set_num_threads(threads)
    return {"kilobytes": kilobytes, "a_second": files / seconds}


def drawing(*, images: int, batch: int, size: int, rounds: int) -> dict[str, float]:
    """Seconds of an epoch's order and augmentation, and of a whole batch's noise, on the CPU."""
    source = FolderSource(
        [""] * images, torch.zeros(images), size=size, resize=size, augment=True, workers=0
    )
    generator = torch.Generator().manual_seed(0)

    def order() -> None:
        plan = source.plan(batch, source.steps(batch), generator)
        for indices in plan:
            torch.randint(2**62, (len(indices), DRAWS), generator=generator)

    noise = _median(lambda: torch.rand(batch, 3, size, size, generator=generator), rounds)
    bytes_an_image = 8 * (1 + DRAWS)
    return {"order": _median(order, rounds), "noise": noise, "bytes_an_image": bytes_an_image}


def keeping(setting: Setting, *, noise: float, batch: int, rounds: int) -> dict[str, float]:
    """The state of a stage after an epoch: bytes of the file, seconds to write and to digest it.

    Args:
        setting: after a step at least.
        noise: bytes that the objective keeps of an image.
        batch: the whole batch, whose noise is in the file.
        rounds: how often each is clocked.
    """
    state = state_of(setting)
    state.processes = []
    momenta = [v for s in state.optimizer["state"].values() for v in s.values()]
    tensors = [t for t in [*state.model.values(), *momenta] if isinstance(t, torch.Tensor)]
    with TemporaryDirectory() as folder:
        path = Path(folder, "state.pt")
        seconds = _median(lambda: state.save(path), rounds)
        size = path.stat().st_size
    digest = _median(lambda: fingerprint(*tensors), rounds)
    whole = size + noise * batch
    return {"bytes": whole, "seconds": seconds * whole / size, "digest": digest}


def judging(model: nn.Module, evaluator: Evaluator, *, size: int) -> dict[str, float]:
    """Passes of an attack on an image that withstands it, and their operations.

    Passes are counted while the evaluator judges; torch's counter of operations does not follow it.
    """
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    model.eval().requires_grad_(False)
    labels = model(images).argmax(1)  # only images that are classified rightly are attacked
    found: Counter[bool] = Counter()
    counting = model.register_forward_hook(
        lambda module, inputs, output: found.update([output.requires_grad])
    )
    evaluator.judge(model, images, labels, seed=0)
    counting.remove()
    with FlopCounterMode(display=False) as forward:
        model(images)
    with FlopCounterMode(display=False) as both:
        model(images.requires_grad_()).sum().backward()
    there, back = forward.get_total_flops() / 2, both.get_total_flops() / 2
    image = found[False] * there + found[True] * back
    return {"forward": found[False], "backward": found[True], "flops": image}


def _photograph(generator: np.random.Generator) -> Image.Image:
    """Large shapes with fine grain."""
    coarse = generator.uniform(0, 255, (8, 10, 3)).astype(np.uint8)
    shapes = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = generator.normal(0, 20, (HEIGHT, WIDTH, 1))
    return Image.fromarray(np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8))


def _median(work: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return statistics.median(times)
