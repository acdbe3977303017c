"""Classify images with a network, or time it.

python -m robustprune_runtime net.sparse image.npy
python -m robustprune_runtime net.sparse --bench --threads 2
"""

from __future__ import annotations

import statistics
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from . import FileError, Model, Unavailable, load

_SECONDS, _FEWEST = 1.0, 5  # that each size of batch is timed for, at least


def main() -> int:
    """Run the command; 0 if it is done, 2 if what it was given is at fault."""
    parser = ArgumentParser(
        "python -m robustprune_runtime",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="what robustprune export --format sparse wrote")
    what = parser.add_mutually_exclusive_group(required=True)
    text = ".npy of floats in [0, 1], (C, H, W) or (N, C, H, W)"
    what.add_argument("images", type=Path, nargs="?", help=text)
    what.add_argument("--bench", action="store_true", help="time batches of 1 and 32 images")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: 1")
    arguments = parser.parse_args()
    try:
        start = perf_counter()
        model = load(arguments.file, threads=arguments.threads)
        loading = perf_counter() - start
        if arguments.bench:
            print(f"loaded in {loading:.2f} s")
            lines = _times(model)
        else:
            lines = _answers(model, _images(arguments.images, model))
        for line in lines:
            print(line)
    except (FileError, Unavailable, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _images(path: Path, model: Model) -> NDArray[np.floating]:
    found: NDArray[np.floating] = np.load(path, allow_pickle=False)
    return found[None] if found.ndim == len(model.shape) else found


def _answers(model: Model, images: NDArray[np.floating]) -> Iterator[str]:
    for logits in model(images):
        answer = int(logits.argmax())
        name = model.classes[answer] if model.classes else f"class {answer}"
        rest = " ".join(f"{logit:.4f}" for logit in logits)
        yield f"{name}  (logits {rest})"


def _times(model: Model) -> Iterator[str]:
    generator = np.random.default_rng(0)
    for batch in (1, 32):
        images = generator.random((batch, *model.shape), np.float32)
        times: list[float] = []
        model(images)  # memory is taken, and pages are touched
        while sum(times) < _SECONDS or len(times) < _FEWEST:
            start = perf_counter()
            model(images)
            times.append(perf_counter() - start)
        median = statistics.median(times)
        yield f"batch {batch}: {1e3 * median:.2f} ms, {batch / median:,.0f} images a second"


if __name__ == "__main__":
    sys.exit(main())
