"""Sparse networks on CPUs: compiled where they run, with LLVM; numpy arrays in and out.

A `Program` computes a list of `Operation`s, and multiplies by kept weights only. The parts, from
the bottom: `emit` and `generate` write LLVM's IR, `jit` compiles it and keeps the code, `tiles`
cuts maps into pieces, `lower` makes maps and maxima of operations, `plan` lays values out and lists
the calls, in two layouts (`images`, `pixels`), `program` makes them. Nothing here imports anything
of ours from outside this folder, nor torch, and llvmlite only when a program is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .jit import Unavailable, available
from .lower import Unsupported
from .operations import Operation

if TYPE_CHECKING:
    from .program import Program

VERSION = 1
"""Raised when kernels change so that what was measured of them no longer holds."""

__all__ = ["VERSION", "Operation", "Program", "Unavailable", "Unsupported", "available"]


def __getattr__(name: str) -> Any:
    """Import programs, and llvmlite with them, when they are first asked for.

    Where this machine has no kernels, `Program` is a function that raises `Unavailable`.
    """
    if name != "Program":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if (reason := available()) is not None:

        def unavailable(*_: Any, **__: Any) -> None:
            raise Unavailable(reason)

        return unavailable
    from .program import Program

    return Program
