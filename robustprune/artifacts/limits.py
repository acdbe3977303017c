"""Limits of the memory that a file may ask for: its claims are held against its size.

A few bytes of metadata can name a network of any size, and whoever writes them can write their
checksum, too.
"""

from __future__ import annotations

import threading
from collections import Counter
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

    ``needed`` are bytes of memory, ``held`` those of the file or of its tensors, of which honest
    content takes at most so many ``times`` as many.
    """
    if needed > max(ROOM, times * held):
        raise UsageError(
            f"{path} was not read: its {held:,} bytes would take {needed:,} bytes of memory, more "
            "than any honest file of that size."
        )


def check_numbers(path: Path, arguments: Any, *, place: str = "model") -> None:
    """Make sure that no number among a network's arguments is out of all proportion."""
    if isinstance(arguments, Mapping):
        for key, value in arguments.items():
            if key != _SHOWN:
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
def limit_parameters(path: Path, *, tensors: int) -> Iterator[None]:
    """Stop the making of a network that has many more parameters than a file has tensors."""
    thread, most = threading.get_ident(), 2 * tensors + _SPARE
    seen: Counter[str] = Counter()

    def count(kind: str, most: int) -> None:
        if threading.get_ident() != thread:
            return
        seen[kind] += 1
        if seen[kind] > most:
            raise UsageError(
                f"{path} does not fit its architecture: it holds {tensors:,} tensors, and the "
                f"network has more than {most:,} {kind}."
            )

    parameters = hooks.register_module_parameter_registration_hook
    layers = hooks.register_module_module_registration_hook
    with (
        parameters(lambda *_: count("parameters", most)),
        layers(lambda *_: count("layers", _MODULES * most)),
    ):
        yield


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors take once each of them has a memory of its own."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def model_bytes(model: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, also of those that no file keeps."""
    return tensor_bytes([*model.parameters(), *model.buffers()])
