"""Which layers the kernels compute: those that are faster so, on this machine.

Of each chain of layers those become sparse that make its sum of seconds least, changes of layout
included; in the end the whole network is timed against the dense one, and stays dense if that is
as fast.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustprune.errors import UsageError
from robustprune.inference.graph import known_operations, layers_of
from robustprune.inference.recognition import KnownOperation
from robustprune.inference.segment import Segment, computable, put_segments
from robustprune.inference.timing import (
    Seconds,
    Table,
    layer_seconds,
    least_seconds,
    torch_threads,
)
from robustprune.kernels import jit

Choices = Mapping[str, Any]
"""What was chosen and why; can be written as JSON.

``network`` is `SPARSE`, `DENSE` or `CHANNELS_LAST`; ``reason`` says why it is not sparse. A sparse
one is made of ``layers`` and ``few``, a program's option; the other keys are for readers.
"""

SPARSE, DENSE, CHANNELS_LAST = "sparse", "dense", "dense, channels last"

MOST = 64
"""Images that are timed at most: in larger batches, the time per image is the same."""
SECONDS = 1.0
"""Time of the dense network above which fewer images are timed, though never less than 16."""
GAIN = 0.97
"""A sparse network takes less than this share of the dense one's time, or it is not chosen."""
LONG = 5.0
"""Seconds of measurements about which a line is told beforehand."""


def choose(
    dense: nn.Module,
    graph: fx.GraphModule,
    images: Tensor,
    *,
    threads: int,
    table: Table,
    program: Callable[..., Any],
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """Measure, and return the choices.

    Args:
        dense: the plain network.
        graph: its graph; becomes the sparse network.
        images: ``(n, …)``, the batch that choices are made for.
        threads: of the kernels.
        table: the machine's.
        program: the class `robustprune.kernels.Program`.
        tell: is called with a line if it will take long.
    """
    if not layers_of(graph):
        return {"network": DENSE, "reason": "the kernels know none of its layers"}
    with torch.no_grad(), torch_threads(threads):
        images = _timed(dense, images, tell)
        compiled = partial(program, threads=threads)
        found = _layers(graph, len(images), threads, table, compiled)
        table.save()
        wanted = _sparse_layers(graph, found)
        figures = {name: _milliseconds(seconds) for name, seconds in found.items()}
        layers = {name: {"sparse": name in wanted, **figures[name]} for name in found}
        about: dict[str, Any] = {"batch": len(images), "threads": threads, "layers": layers}
        if not wanted:
            return {"network": DENSE, "reason": "no layer is faster sparse", **about}
        build(graph, layers, program=partial(compiled, few=1))
        about["few"] = _set_few(graph, images[:1], threads)
        last = copy.deepcopy(dense).to(memory_format=torch.channels_last)
        networks = {DENSE: dense, CHANNELS_LAST: last, SPARSE: graph}
        calls = [partial(network, images) for network in networks.values()]
        seconds = dict(zip(networks, least_seconds(*calls), strict=True))
    about["milliseconds"] = {name: _short(1000 * one) for name, one in seconds.items()}
    best = min(DENSE, CHANNELS_LAST, key=seconds.__getitem__)
    if seconds[SPARSE] < GAIN * seconds[best]:
        return {"network": SPARSE, **about}
    return {"network": best, "reason": "the whole is not faster sparse", **about}


def build(
    graph: fx.GraphModule,
    layers: Mapping[str, Mapping[str, Any]],
    *,
    program: Callable[..., Any],
) -> None:
    """Put programs into a graph, by what was chosen for each layer.

    Args:
        graph: becomes the sparse network.
        layers: the entry of `Choices`.
        program: compiles a segment.

    Raises:
        UsageError: the choices are of another network.
    """
    if odd := sorted({*layers_of(graph)} ^ layers.keys()):
        raise UsageError(
            f"the choices are of a network with other layers: {', '.join(odd[:5])}. Leave "
            "them out to have this one measured."
        )

    def wanted(known: KnownOperation) -> bool:
        return not known.is_layer() or bool(layers[known.layer]["sparse"])

    put_segments(graph, wanted, program)


def least(chain: Sequence[Seconds]) -> list[bool]:
    """Which layers of a chain are sparse, so that its sum is least; it starts and ends dense."""
    # the best sum up to a layer, and its choices, if that layer is dense, and if it is sparse
    dense: tuple[float, list[bool]] = (0.0, [])
    sparse: tuple[float, list[bool]] = (float("inf"), [])
    change = 0.0  # behind the last layer
    for seconds in chain:
        from_sparse = min((dense[0], dense[1]), (sparse[0] + change, sparse[1]))
        from_dense = min((sparse[0], sparse[1]), (dense[0] + seconds.before, dense[1]))
        dense = (from_sparse[0] + seconds.dense, [*from_sparse[1], False])
        sparse = (from_dense[0] + seconds.sparse, [*from_dense[1], True])
        change = seconds.after
    return min(dense, (sparse[0] + change, sparse[1]))[1]


def _layers(
    graph: fx.GraphModule,
    batch: int,
    threads: int,
    table: Table,
    program: Callable[..., Any],
) -> dict[str, Seconds]:
    found = {}
    for node, known in known_operations(graph):
        if known.is_layer():
            shape = node.all_input_nodes[0].meta["shape"]
            found[known.layer] = layer_seconds(
                known, shape, batch=batch, threads=threads, table=table, program=program
            )
    return found


def _sparse_layers(graph: fx.GraphModule, found: Mapping[str, Seconds]) -> set[str]:
    """The layers that gain, in chains between calls that the kernels do not know."""
    chains: list[list[str]] = [[]]
    for node in graph.graph.nodes:
        known = computable(node)
        if known is None:
            chains.append([])
        elif known.is_layer():
            chains[-1].append(known.layer)
    wanted = set()
    for chain in chains:
        choice = least([found[name] for name in chain])
        wanted |= {name for name, sparse in zip(chain, choice, strict=True) if sparse}
    return wanted


def _set_few(network: nn.Module, image: Tensor, threads: int) -> int:
    """Set and return the number of images up to which it is best to go one by one."""
    programs = [
        segment.program
        for segment in network.modules()
        if isinstance(segment, Segment) and segment.program.few  # 0: it can do vectors only
    ]

    def go_alone(few: int) -> None:
        for program in programs:
            program.few = few

    width, rest = jit.vector_width(), (1,) * (image.dim() - 1)
    go_alone(threads)  # one for each
    each, several = image.repeat(threads, *rest), image.repeat(width, *rest)
    seconds, vector = least_seconds(partial(network, each), partial(network, several))
    few = max(1, min(int(threads * vector / seconds), width - 1))
    go_alone(few)
    return few


def _timed(dense: nn.Module, images: Tensor, tell: Callable[[str], object]) -> Tensor:
    """The images that are timed; also warms the processor up."""
    images = images[:MOST]
    while True:
        start = time.perf_counter()
        dense(images)
        seconds = time.perf_counter() - start
        if seconds < SECONDS or len(images) < 32:
            break
        images = images[: len(images) // 2]
    if 7 * seconds > LONG:
        tell(f"measuring which layers are faster sparse takes about {7 * seconds:.0f} s, once")
    return images


def _milliseconds(seconds: Seconds) -> dict[str, float | None]:
    """For readers; None where there is no kernel."""
    known = seconds.sparse < float("inf")
    return {
        "dense_ms": _short(1000 * seconds.dense),
        "sparse_ms": _short(1000 * seconds.sparse) if known else None,
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")
