"""The part ``limits`` of sparse.py: what this CPU can do, and what our networks ask of it."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from sparse_networks import NETWORKS, Network

from robustprune.inference import operations_of
from robustprune.inference.timing import least_seconds
from robustprune.kernels import Operation, Program, images
from robustprune.kernels.lower import Map, lowered
from robustprune.unparametrize import plain_copy

DENSITIES = (0.1, 0.05, 0.01)
FAR = 2**20  # floats that no second cache holds


def limits(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    """One cell: rates, and multiply-adds of each network."""
    names = [name for name in arguments.networks if NETWORKS[name]["num_classes"] == 10]
    yield {"networks": names}, partial(_measured, names)


def _measured(names: list[str]) -> dict[str, Any]:
    there, here = np.ones(FAR, np.float32), np.zeros(FAR, np.float32)
    (copying,) = least_seconds(lambda: np.copyto(here, there))
    block, images.CACHE = images.CACHE, 2**30  # no blocks: all channels of a tile, every time
    second = _rate(channels=256, density=0.1)
    images.CACHE = block
    return {
        "gigabytes_a_second": 8 * FAR / copying / 1e9,
        "first_cache": _rate(channels=16, density=1.0),
        "second_cache": second,
        "multiply_adds": {
            name: {f"{density:g}": _multiply_adds(name, density) for density in DENSITIES}
            for name in names
        },
    }


def _rate(channels: int, density: float) -> float:
    """Multiply-adds a second: 3 x 3 taps, 4 x 4 pixels, no padding, groups of images."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((256, channels, 3, 3), np.float32)
    weight *= random.random(weight.shape) < density
    options = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    arrays = {"weight": weight, "bias": np.zeros(256, np.float32)}
    program = Program([Operation("convolution", (0,), options, arrays)], (channels, 6, 6), few=0)
    batch = np.ones((16, channels, 6, 6), np.float32)
    (seconds,) = least_seconds(lambda: program(batch))
    return float(np.count_nonzero(weight) * 16 * len(batch) / seconds)


def _multiply_adds(name: str, density: float) -> int:
    """Of kept weights for one image; none in padding."""
    network = Network(name, density)
    example = network.images(2)
    program = lowered(operations_of(plain_copy(network.saved.model), example), example.shape[1:])
    total = 0
    for node in program.nodes:
        if not isinstance(node, Map) or node.weights.where is None:
            continue
        (_, *inside), (_, *outside) = program.shapes[node.x], program.shapes[node.y]
        size, window = (inside[0], inside[1]), node.window
        lines = [
            [sum(window.meets(axis, pixel, tap, size) for pixel in range(outside[axis]))
             for tap in range(window.kernel[axis])]
            for axis in (0, 1)
        ]  # fmt: skip
        counts = np.bincount(node.weights.taps, minlength=len(window.taps))
        reach = [lines[0][row] * lines[1][column] for row, column in window.taps]
        total += int(np.dot(counts, reach))
    return total


def page(found: list[dict[str, Any]], passes: list[dict[str, Any]]) -> str:
    """Rates, and the time of 32 images beside the least that they allow."""
    cell = found[-1]
    rows = [
        "| network | density | million multiply-adds an image | ms of 32 images at the first rate "
        "| measured, ms | share |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for entry in passes:
        key = entry["key"]
        count = cell["multiply_adds"].get(key["network"], {}).get(f"{key['density']:g}")
        if key["batch"] != 32 or count is None or "ours/1" not in entry["times"]:
            continue
        least = 32e3 * count / cell["first_cache"]
        measured = 1000 * statistics.median(entry["times"]["ours/1"])
        rows.append(
            f"| {key['network']} | {key['density']:g} | {count / 1e6:.1f} | {least:.1f} | "
            f"{measured:.1f} | {least / measured:.0%} |"
        )
    rates = (
        f"One core multiplies and adds {cell['first_cache'] / 1e9:.0f} billion times a second if "
        f"inputs come from its first cache, and {cell['second_cache'] / 1e9:.0f} if they come from "
        f"its second; it copies {cell['gigabytes_a_second']:.0f} GB a second, read and written, of "
        "what neither holds."
    )
    return "\n".join([rates, "", *rows])
