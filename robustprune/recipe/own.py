"""Errors in the user's own files: which of them raised, and where."""

from __future__ import annotations

import inspect
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import robustprune
from robustprune.errors import ContractError, PeerError, SoundnessError, UsageError, first_line
from robustprune.parts import Part
from robustprune.recipe.imports import imported

_WORKER = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_LIBRARIES = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
_PACKAGE = Path(robustprune.__file__).resolve().parent


def blamed(error: BaseException) -> str:
    """Where a file that a recipe imports raised an error, and the error; empty if none did.

    One that says itself what is to be done (`robustprune.errors`) is nobody's fault here, nor is
    a full memory, after which the same may do if it is started anew.

    A part of the user's own is also to blame for what it gave, or lacks, against its contract. For
    example ``losses.py:12, in __call__: ZeroDivisionError: division by zero``.
    """
    if isinstance(error, UsageError | SoundnessError | PeerError | MemoryError):
        return ""
    for raised in _chain(error):
        frames = [frame for frame in _frames(raised) if is_own(frame.filename)]
        if frames:
            frame = frames[-1]
            code = f"\n  {frame.line}" if frame.line else ""
            where = f"{frame.filename}:{frame.lineno}, in {frame.name}"
            return f"{where}: {type(raised).__name__}: {_said(raised)}{code}"
        part = raised.part if isinstance(raised, ContractError) else _part(raised.__traceback__)
        if part is not None and (place := _defined(part)):
            return f"{place}, in {part.__name__}: {first_line(raised)}"
    return ""


def is_own(file: str) -> bool:
    """Whether a file was imported by a recipe, or lies beside one that was, and is no library's."""
    path = Path(file).resolve()
    installed = {known.parent for known in imported if known.name == "__init__.py"}
    if path in imported or any(map(path.is_relative_to, installed)):
        return True
    others = path.is_relative_to(_PACKAGE) or any(map(path.is_relative_to, _LIBRARIES))
    return not others and any(path.is_relative_to(known.parent) for known in imported)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised from, or while they were handled."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of its traceback; of one in a data loader's process, those that it tells of."""
    told = [traceback.FrameSummary(f, int(n), name) for f, n, name in _WORKER.findall(str(error))]
    return [*traceback.extract_tb(error.__traceback__), *told]


def _said(error: BaseException) -> str:
    """The first line of the error; of one in a data loader's process, its own last one."""
    lines = str(error).strip().splitlines()
    return lines[-1] if _WORKER.search(str(error)) else first_line(error)


def _part(trace: TracebackType | None) -> type[Part] | None:
    """The class of the part in whose method the error was raised: one that it did not define."""
    owner = None
    while trace is not None:
        owner, trace = trace.tb_frame.f_locals.get("self"), trace.tb_next
    return type(owner) if isinstance(owner, Part) else None


def _defined(part: type) -> str:
    """The file and line of the user's own class; empty if it is none."""
    try:
        file, line = inspect.getsourcefile(part), inspect.getsourcelines(part)[1]
    except (OSError, TypeError):  # typed into an interpreter
        return ""
    return f"{file}:{line}" if file is not None and is_own(file) else ""
