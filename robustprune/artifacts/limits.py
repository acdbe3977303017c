"""How much memory a file may ask for: what it says of itself is held against what is in it.

A few bytes of metadata can name a network of any size, and whoever writes them can write their
checksum, too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from robustprune.errors import UsageError

ROOM = 2**28
"""Bytes that the content of any file may take."""

LONGEST_STRUCTURE = 2**23
"""Bytes of what a file says of its tensors: read, they take some forty times as many."""

_LARGEST = 2**16  # number among a network's arguments: constructors count up to it
_SHOWN = "num_classes"  # one that nothing but shapes depends on
_SPARE = 1000  # parameters that a constructor may make and replace
_MODULES = 20  # for each parameter


def check_room(path: Path, needed: int, *, held: int, times: int) -> None:
    """Make sure that content takes no more memory than a file of its size can mean.

    Args:
        path: the file, for messages.
        needed: bytes of memory.
        held: bytes that are there, of the file or of the tensors in it.
        times: how much longer honest content can be than what stands for it.

    Raises:
        UsageError: it does.
    """
    if needed > max(ROOM, times * held):
        raise UsageError(
            f"{path} was not read: its {held:,} bytes would take {needed:,} bytes of memory, more "
            "than any honest file of that size."
        )


def check_numbers(path: Path, arguments: Any, *, place: str = "model") -> None:
    """Make sure that no number among a network's arguments is out of all proportion.

    Raises:
        UsageError: names the first that is.
    """
    if isinstance(arguments, Mapping):
        for key, value in arguments.items():
            if key == _SHOWN:
                continue
            check_numbers(path, value, place=f"{place}.{key}")
    elif isinstance(arguments, list | tuple):
        for value in arguments:
            check_numbers(path, value, place=place)
    elif isinstance(arguments, int | float) and abs(arguments) > _LARGEST:
        raise UsageError(
            f"{path} was not read: {place} is {arguments:,}, and a network that is read from a "
            f"file has no argument above {_LARGEST:,}."
        )


@contextmanager
def bounded(path: Path, *, tensors: int) -> Iterator[None]:
    """Let no network be made in the block that has many more parameters than a file has tensors.

    Raises:
        UsageError: one is; as soon as it is.
    """
    thread, counts = threading.get_ident(), {"parameters": 0, "layers": 0}
    most = {"parameters": 2 * tensors + _SPARE}
    most["layers"] = _MODULES * most["parameters"]

    def count(kind: str) -> None:
        if threading.get_ident() != thread:
            return
        counts[kind] += 1
        if counts[kind] > most[kind]:
            raise UsageError(
                f"{path} does not fit its architecture: it holds {tensors:,} tensors, and the "
                f"network has more than {most[kind]:,} {kind}."
            )

    registered = (
        hooks.register_module_parameter_registration_hook(lambda *_: count("parameters")),
        hooks.register_module_module_registration_hook(lambda *_: count("layers")),
    )
    try:
        yield
    finally:
        for hook in registered:
            hook.remove()


def memory(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors take once each of them has a memory of its own."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def held_by(model: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, also of those that no file keeps."""
    return memory([*model.parameters(), *model.buffers()])
