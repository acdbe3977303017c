"""Speed of a network on this CPU: by torch, by ONNX Runtime, and by the sparse kernels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from robustprune.artifacts.backends import create as create_backend
from robustprune.artifacts.backends.base import example_images
from robustprune.artifacts.backends.onnx import session
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import UsageError, first_line
from robustprune.inference import sparse
from robustprune.inference.timing import torch_threads
from robustprune.timing import alternate, passes, ratio

Document = dict[str, Any]
"""JSON values."""
ENGINES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "sparse": "sparse kernels"}
"""Names of engines for people; torch and ONNX Runtime multiply zeros like other weights."""
_ROUNDS = 9


def measure_speed(
    saved: SavedModel,
    *,
    batches: Sequence[int],
    threads: int,
    seconds: float,
    tell: Callable[[str], None],
) -> list[Document]:
    """Time a network's passes without gradients; all engines take turns.

    Args:
        saved: on the CPU.
        batches: images at once; each is measured apart.
        threads: of each engine.
        seconds: for which each engine is timed at each batch size, roughly.
        tell: is called with a line where something takes long.

    Returns:
        For each size ``batch``, ``engines``, and ``choices`` of `robustprune.inference.sparse` for
        it. An engine, of `ENGINES`, has ``milliseconds`` of a batch, ``images_per_second`` and
        ``speedup``, by which it is as fast as torch; or ``missing``, why it was not measured.

    Raises:
        UsageError: the network does not take images of the size that its file names.
    """
    folders = TemporaryDirectory(prefix="robustprune-")
    with folders as folder, torch.no_grad(), torch_threads(threads):
        _check(saved)
        exported = _exported(saved, Path(folder) / "network.onnx")
        return [_measured(saved, exported, batch, threads, seconds, tell) for batch in batches]


def _measured(
    saved: SavedModel,
    exported: Path | str,
    batch: int,
    threads: int,
    seconds: float,
    tell: Callable[[str], None],
) -> Document:
    """One batch size; an export that failed is the reason."""
    images = example_images(saved, batch)
    ours = sparse(saved.model, images, threads=threads, tell=tell)
    calls: dict[str, Callable[[], object]] = {
        "torch": lambda: saved.model(images),
        "sparse": lambda: ours(images),
    }
    if isinstance(exported, Path):
        running, array = session(exported, threads=threads), images.numpy()
        calls["onnxruntime"] = lambda: running.run(None, {"images": array})
    sides = {name: passes(call) for name, call in calls.items()}
    times = alternate(sides, rounds=_ROUNDS, seconds=seconds / _ROUNDS)
    engines: Document = {}
    for name in ENGINES:
        if name not in times:
            engines[name] = {"missing": exported}
            continue
        median = statistics.median(times[name])
        engines[name] = {"milliseconds": 1000 * median, "images_per_second": batch / median}
        engines[name]["speedup"] = ratio(times, "torch", name)
    return {"batch": batch, "engines": engines, "choices": ours.choices}


def _exported(saved: SavedModel, path: Path) -> Path | str:
    """Export a network for ONNX Runtime, or say why that cannot be done."""
    try:
        create_backend("onnx").export(saved, path)
    except UsageError as error:
        return " ".join(str(error).split())
    return path


def _check(saved: SavedModel) -> None:
    images: Tensor = example_images(saved, 1)
    try:
        saved.model(images)
    except Exception as error:  # of any network
        size = "×".join(map(str, images.shape[1:]))
        raise UsageError(
            f"the network does not take images of {size} ({first_line(error)}). Say what its "
            "images are: --data NAME."
        ) from None
