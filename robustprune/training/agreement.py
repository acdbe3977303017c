"""Whether the processes of a job train the same network, and what to do about statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from robustprune.errors import PeerError
from robustprune.seeding import capture

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator
    from torch import nn

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
    state = capture()
    tensors = [value for value in (*state.values(), *state["numpy"]) if isinstance(value, Tensor)]
    states = shard.gather((_digest(tensors), state["python"], state["numpy"][1:]))
    return all(state == states[0] for state in states)


def learns_statistics(model: nn.Module) -> bool:
    """Whether the network has norm layers whose running statistics move."""
    return any(True for _ in _learning(model))


@torch.no_grad()
def average_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Give the norm layers of all processes the mean of their running statistics."""
    for module in _learning(model):
        for statistic in (module.running_mean, module.running_var):
            assert statistic is not None
            statistic.copy_(accelerator.reduce(statistic, reduction="mean"))


def _learning(model: nn.Module) -> Iterator[_NormBase]:
    for module in model.modules():
        if isinstance(module, _NormBase) and module.training and module.running_mean is not None:
            yield module


def _digest(tensors: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
