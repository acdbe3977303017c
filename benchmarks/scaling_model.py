"""A model of a training step on many GPUs: arithmetic on costs that scaling_costs.py measures.

A step takes, on each of N GPUs with a batch of B images among them,

    max(max(device, host) + select, data), where
    device   = compute + update + norms + exchange
    compute  = ceil(B / N) · operations of an image / (peak · efficiency)
    update   = bytes that the optimizer and the masks touch / memory bandwidth
    norms    = BatchNorm's statistics: each layer gathers those of all in the forward pass, and adds
               sums up in the backward pass; nothing hides it
    exchange = the all-reduce of gradients, less what the backward pass hides, and that of the loss
    host     = operators of layers · launch + those of BatchNorm across processes · bare
    select   = operators of the masks' selection · bare + the bytes it touches / memory bandwidth;
               the host waits for what it finds, so that nothing hides it either
    data     = images read / (readers · images a second of a core) / steps on each batch

An all-reduce of n bytes takes 2 (N - 1) / N · n / bandwidth + 2 ceil(log2 N) · latency: a ring's
bytes, and a tree's hops, as libraries choose for short messages. Gathering n bytes of each takes
(N - 1) · n / bandwidth and the same hops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

NORM_OPERATORS = 40
"""More of them in synchronised BatchNorm than in torch's, a layer and step: read off its code."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An accelerator.

    Attributes:
        flops: its peak in operations a second, a multiplication and an addition counted as two.
        efficiency: share of the peak that a network's training reaches.
        bandwidth: bytes a second of its memory.
        memory: bytes.
        launch: seconds to run a layer's operator from Python, with its module and its gradient's.
        bare: seconds to launch an operator that stands by itself.
    """

    flops: float
    efficiency: float
    bandwidth: float = 2.0e12
    memory: float = 80e9
    launch: float = 30e-6
    bare: float = 10e-6


@dataclass(frozen=True)
class Link:
    """What connects GPUs: bytes a second of a ring through them, and seconds a hop."""

    bandwidth: float
    latency: float


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Machines of equal GPUs; above ``per_machine`` GPUs the network bounds every exchange."""

    gpu: Gpu
    inside: Link = field(default_factory=lambda: Link(230e9, 5e-6))
    network: Link = field(default_factory=lambda: Link(12.5e9, 15e-6))
    per_machine: int = 8
    readers: int = 4

    def all_reduce(self, size: float, world: int) -> float:
        """Seconds to add up ``size`` bytes of each of ``world`` GPUs."""
        return self._sent(2 * (world - 1) / world * size, world)

    def gather(self, size: float, world: int) -> float:
        """Seconds until each of ``world`` GPUs has the ``size`` bytes of all."""
        return self._sent((world - 1) * size, world)

    def _sent(self, moved: float, world: int) -> float:
        if world == 1:
            return 0.0
        link = self.inside if world <= self.per_machine else self.network
        return moved / link.bandwidth + 2 * math.ceil(math.log2(world)) * link.latency


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step of one phase does; ``image`` and ``activations`` are an image's.

    Attributes:
        image: operations of an image.
        backward: share of them in the backward pass.
        operators: launched from Python, the selection left out.
        selecting: operators of the selection; 0 outside the prune phase.
        gradients: bytes that an exchange adds up.
        touched: bytes that the optimizer and the masks read or write.
        selected: bytes that the selection reads or writes.
        norms: BatchNorm layers.
        sums: bytes of two numbers a feature of all of them: what a pass exchanges.
        state: bytes of weights, scores, masks and momenta.
        activations: bytes kept for the backward pass, an image.
        repeats: steps on each batch.
    """

    image: float
    backward: float
    operators: int
    selecting: int
    gradients: float
    touched: float
    selected: float
    norms: int
    sums: float
    state: float
    activations: float
    repeats: int


def step(
    work: Work, cluster: Cluster, *, batch: int, world: int, read: float, synchronised: bool = True
) -> dict[str, float]:
    """Seconds of each part of a step, and of the whole under ``step``.

    Args:
        work: the phase's.
        cluster: the machines.
        batch: images on all GPUs together.
        world: GPUs.
        read: images a second that one core decodes.
        synchronised: whether BatchNorm's statistics are those of the whole batch.
    """
    gpu, share = cluster.gpu, math.ceil(batch / world)
    compute = share * work.image / (gpu.flops * gpu.efficiency)
    norms = work.norms if synchronised and world > 1 else 0
    layer = work.sums / max(work.norms, 1)
    exchange = cluster.all_reduce(work.gradients, world) - work.backward * compute
    parts = {
        "compute": compute,
        "update": work.touched / gpu.bandwidth,
        "norms": norms * (cluster.gather(layer, world) + cluster.all_reduce(layer, world)),
        "exchange": max(0.0, exchange) + cluster.all_reduce(16, world),
        "host": work.operators * gpu.launch + norms * NORM_OPERATORS * gpu.bare,
        "select": work.selecting * gpu.bare + work.selected / gpu.bandwidth,
        "data": share / (cluster.readers * read) / work.repeats,
    }
    device = sum(parts[name] for name in ("compute", "update", "norms", "exchange"))
    parts["step"] = max(max(device, parts["host"]) + parts["select"], parts["data"])
    return parts


def evaluation(
    image: float, cluster: Cluster, *, images: int, batch: int, world: int, read: float
) -> float:
    """Seconds to judge ``images``, dealt out in whole batches; ``image``: operations of one."""
    rounds = math.ceil(math.ceil(images / batch) / world)
    compute = batch * image / (cluster.gpu.flops * cluster.gpu.efficiency)
    return rounds * max(compute, batch / (cluster.readers * read))


def memory(work: Work, *, batch: int, world: int, accumulate: int = 1) -> float:
    """Bytes on a GPU: state, gradients (twice under DDP: its buckets), and activations.

    What CUDA, cuDNN and the allocator take for themselves is not in it.
    """
    share = math.ceil(math.ceil(batch / world) / accumulate)
    return work.state + work.gradients * (1 + (world > 1)) + share * work.activations
