"""Whether the processes of a job train the same network, and what to do about statistics."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _NormBase

from robustprune.errors import PeerError

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator
    from torch import Tensor, nn

    from robustprune.shard import Shard


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
    found = shard.gather(_digest(model.state_dict().values()))
    differing = [rank for rank, digest in enumerate(found) if digest != found[0]]
    if differing and not shard.is_main:
        raise PeerError(0)
    if differing:
        names = ", ".join(map(str, differing))
        raise RuntimeError(
            f"{when}, process {names} of {shard.world} has another network than process 0. The "
            "state before is kept. If it happens again on the same machine, suspect its memory."
        )


def same_draws(shard: Shard) -> bool:
    """Whether the global generators of all processes are in the same state."""
    states = shard.gather(_digest([torch.get_rng_state()]))
    return all(state == states[0] for state in states)


@torch.no_grad()
def average_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Give the norm layers of all processes the mean of their running statistics."""
    for module in model.modules():
        if isinstance(module, _NormBase):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    statistic.copy_(accelerator.reduce(statistic, reduction="mean"))


def _digest(tensors: object) -> str:
    found = hashlib.sha256()
    for tensor in tensors:  # type: ignore[attr-defined]
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
