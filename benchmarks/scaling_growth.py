"""What gives way first when the GPUs, the network or the data grow tenfold and a hundredfold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from scaling_model import memory
from scaling_study import Study, shown

GROWTH = (1, 10, 100)
GPUS = 8
SPACE = "\u00a0"  # a number is not parted from its unit
Figures = Iterator[tuple[str, str, list[str]]]


def growth(study: Study) -> dict[str, Any]:
    """One thing grows from what it is on 8 GPUs, in the last precision of the study."""
    precision = list(study.clusters)[-1]
    figures = (*_gpus(study, precision), *_networks(study, precision), *_data(study, precision))
    rows = [[what, figure, *values] for what, figure, values in figures]
    heads = ["what grows", f"figure, {precision}", *(f"×{SPACE}{times}" for times in GROWTH)]
    return {"title": "Growth", "columns": heads, "rows": rows, "numbers": len(GROWTH)}


def _gpus(study: Study, precision: str) -> Figures:
    """More GPUs, with the same batch and with one that grows with them."""
    batch = study.recipe.stages["prune"].batch_size
    fair = study.step("prune", precision, GPUS)["step"]
    steps = {}
    for times in GROWTH:
        if times * GPUS <= batch:
            steps[times] = study.step("prune", precision, times * GPUS)["step"]
    images = [f"{math.ceil(batch / (t * GPUS))}" if t in steps else "–" for t in GROWTH]
    yield "GPUs", "images a GPU", images
    yield "GPUs", "prune step", [_ms(steps[t]) if t in steps else "refused" for t in GROWTH]
    shares = [f"{fair / t / steps[t]:.0%}" if t in steps else "–" for t in GROWTH]
    yield "GPUs", "of a fair division", shares
    with_batch = [study.step("prune", precision, t * GPUS, batch=t * batch) for t in GROWTH]
    yield "GPUs and batch", "prune step", [_ms(found["step"]) for found in with_batch]


def _networks(study: Study, precision: str) -> Figures:
    """More weights in as many layers, whose operations grow with them; and more layers."""
    batch = study.recipe.stages["prune"].batch_size
    work, state = study.work("prune", precision), study.measured["phases"]["prune"]["state"]
    keys = ("image", "gradients", "touched", "selected", "state")
    wide = [replace(work, **{key: t * getattr(work, key) for key in keys}) for t in GROWTH]
    steps = [study.step("prune", precision, GPUS, work=grown) for grown in wide]
    fixed = [memory(replace(w, activations=0), batch=batch, world=GPUS) for w in wide]
    after = state["digest"] + state["seconds"]
    noise = batch * study.measured["phases"]["prune"]["noise"]  # of images, not of weights
    files = [t * (state["bytes"] - noise) + noise for t in GROWTH]
    yield "weights", "prune step", [_ms(found["step"]) for found in steps]
    yield "weights", "of it, selecting the mask", [_ms(found["select"]) for found in steps]
    yield "weights", "a GPU's memory but activations", [_gib(size) for size in fixed]
    yield "weights", "state file", [f"{size / 1e9:.1f}{SPACE}GB" for size in files]
    yield "weights", "comparing and saving, an epoch", [_s(t * after) for t in GROWTH]
    keys = ("image", "norms", "sums", "operators", "selecting")
    deep = [replace(work, **{key: t * getattr(work, key) for key in keys}) for t in GROWTH]
    found = [study.step("prune", precision, GPUS, work=grown)["norms"] for grown in deep]
    yield "layers", "BatchNorm's exchanges, of a step", [_ms(seconds) for seconds in found]


def _data(study: Study, precision: str) -> Figures:
    """More images to train on, and to judge."""
    drawing = study.measured["drawing"]
    hours = [study.hours("pretrain", precision, GPUS, grown=times) for times in GROWTH]
    bytes_ = [times * study.training * drawing["bytes_an_image"] for times in GROWTH]
    yield "training images", "pretrain", [f"{shown(found)}{SPACE}h" for found in hours]
    yield "training images", "order and draws, each process", [_gib(size) for size in bytes_]
    yield "training images", "drawing them, an epoch", [_s(t * drawing["order"]) for t in GROWTH]
    judged = [study.attacking(GPUS, grown=times) for times in GROWTH]
    yield "test images", "PGD", [f"{shown(found)}{SPACE}h" for found in judged]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}{SPACE}ms"


def _s(seconds: float) -> str:
    return f"{seconds:,.1f}{SPACE}s"


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}{SPACE}GiB"
