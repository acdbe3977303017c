"""Networks of several processes: made the same, checked to be, and their norms' statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.accelerator import Accelerator
from torch import nn

from robustprune.errors import PeerError
from robustprune.shard import Shard
from robustprune.train_mode import statistics


def check_same(model: nn.Module, shard: Shard, *, when: str) -> None:
    """Make sure that all processes have the same weights, scores, masks and statistics.

    Args:
        model: this process's.
        shard: this process.
        when: for the message.

    Raises:
        RuntimeError: they differ, and this is the main process. It is no fault of the user's.
        PeerError: they differ, and this is another one.
    """
    if shard.world == 1:
        return
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        flat = tensor.detach().cpu().contiguous().view(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    digests = shard.gather(digest.hexdigest())
    differing = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if differing and not shard.is_main:
        raise PeerError(0)
    if differing:
        names = ", ".join(map(str, differing))
        raise RuntimeError(
            f"{when}, process {names} of {shard.world} has another network than process 0. The "
            "state before is kept. A pruning method must draw from context.generator only; if "
            "yours does, suspect the machine's memory."
        )


@torch.no_grad()
def average_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Give the norm layers of all processes the mean of their running statistics."""
    for tensor in statistics(model).values():
        if tensor.is_floating_point():
            tensor.copy_(accelerator.reduce(tensor, reduction="mean"))


@contextmanager
def synchronised(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Let BatchNorm take the statistics of all processes' images: torch's own, on GPUs only."""
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    if wanted:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.modules.batchnorm._BatchNorm):
                    # the same parameters and buffers, so optimizers and states know no difference
                    convert = nn.SyncBatchNorm.convert_sync_batchnorm
                    setattr(parent, name, convert(child))  # type: ignore[no-untyped-call]
                    swapped.append((parent, name, child))
    try:
        yield
    finally:
        for parent, name, child in swapped:
            synced = getattr(parent, name)
            child._buffers.update(synced._buffers)
            child.train(synced.training)
            setattr(parent, name, child)
