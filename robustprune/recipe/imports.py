"""``imports:``, the one way in which a recipe runs code; and whose code raised an error."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustprune import errors
from robustprune.components import Part
from robustprune.messages import sentence, shown
from robustprune.paths import usable

_imported: dict[Path, str] = {}
"""The files that recipes have named in this process, their own or their modules'; as modules."""

_WORKER = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_CALLED = re.compile(r"(\w+)\.(\w+)\(\) (?:takes|missing|got)")
"""Python's words for a call whose arguments are not those of the method: ``A.judge() takes 3 …``"""
_OURS = f"{__name__.partition('.')[0]}."
_NOT_OWN = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
_NOT_OWN.add(Path(__file__).resolve().parents[1])


def run_imports(names: object, folder: Path) -> list[errors.Problem]:
    """Import each named file or module once a process, so that it registers its parts.

    Files of the same content count as one, so that a run's copy is not run beside its original.
    A name that ends in ``.py`` is a file, see `import_files`; any other is a module. Anything but
    text is left to the schema. Returns a problem for each that is missing or raises.
    """
    problems: list[errors.Problem] = []
    for index, name in enumerate(names if isinstance(names, list) else []):
        if not isinstance(name, str):
            continue
        try:
            fault = _import_file(name, folder) if name.endswith(".py") else _import_module(name)
        except (Exception, SystemExit) as error:
            what = errors.first_line(error, most=500)
            fault = f"importing '{name}' raised {type(error).__name__}{_where(error)}: {what}"
        if fault:
            problems.append(errors.Problem(("imports", index), fault))
    return problems


def import_files(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The file that each entry means; entries that are modules, or not found, are left out.

    A relative entry is looked for from the recipe's ``folder``, then from the working directory,
    then by its last part in ``folder/imports``, where a run's folder keeps copies.
    """
    files: dict[str, Path] = {}
    for name in names:
        file = next(filter(os.path.isfile, _places(name, folder)), None)
        if name.endswith(".py") and file is not None:
            files[name] = file.resolve()
    return files


def imported_as(name: str, path: Path | None) -> str | None:
    """The module that an entry, or the file ``path`` that it means, became; None if none."""
    if path is None:
        return name if name in sys.modules else None
    ending = f"_{_digest(path)}"
    return next((known for known in list(sys.modules) if known.endswith(ending)), None)


def blamed(error: BaseException) -> str:
    """Where a file that a recipe imports raised an error, and the error; empty if none did.

    For example ``losses.py:12, in __call__: ZeroDivisionError: division by zero``. A part of the
    user's own is also to blame for what it gave, or lacks, against its contract. Errors that say
    themselves what to do are nobody's fault here, nor is a full memory.
    """
    if isinstance(
        error, errors.UsageError | errors.SoundnessError | errors.PeerError | MemoryError
    ):
        return ""
    for raised in _chain(error):
        line = errors.first_line(raised)
        if isinstance(raised, ValidationError):
            line = sentence(raised.errors(include_url=False)[0])
        frames = [frame for frame in _frames(raised) if _is_own(frame.filename)]
        if frames:
            frame = frames[-1]
            if _WORKER.search(str(raised)):
                line = str(raised).strip().splitlines()[-1]
            code = f"\n  {frame.line}" if frame.line else ""
            where = f"{frame.filename}:{frame.lineno}, in {frame.name}"
            return f"{where}: {type(raised).__name__}: {line}{code}"
        trace = traceback.walk_tb(raised.__traceback__)
        *_, owner = None, *(frame.f_locals.get("self") for frame, _ in trace)
        part: Any = type(owner) if isinstance(owner, Part) else None  # what it did not define
        if isinstance(raised, errors.ContractError):
            part = raised.part
        elif isinstance(raised, TypeError) and (called := _CALLED.match(str(raised))):
            part = _class_of_ones_own(called[1]) or part
            line += _promised(part, called[2])
        try:
            file, number = inspect.getsourcefile(part), inspect.getsourcelines(part)[1]
        except (OSError, TypeError):  # no part, or one typed into an interpreter
            continue
        if file is not None and _is_own(file):
            return f"{file}:{number}, in {part.__name__}: {line}"
    return ""


def passed_through(error: BaseException) -> str:
    """Where a file that a recipe imports called what raised an error; empty if none did.

    For example ``pruners.py:26, in begin``. Where the file itself raised it, its words suffice.
    """
    frames = _frames(error)
    own = [frame for frame in frames if _is_own(frame.filename)]
    if not own or own[-1] is frames[-1]:
        return ""
    return f"{own[-1].filename}:{own[-1].lineno}, in {own[-1].name}"


def _class_of_ones_own(name: str) -> type | None:
    """The class of that name in a file that a recipe imported."""
    modules = [vars(sys.modules[known]) for known in _imported.values() if known in sys.modules]
    found = [module[name] for module in modules if isinstance(module.get(name), type)]
    return found[-1] if found else None


def _promised(part: Any, method: str) -> str:
    """Say how a method of a part is called, as the base class that is ours declares it."""
    ours = [kind for kind in getattr(part, "__mro__", ()) if kind.__module__.startswith(_OURS)]
    function = next((vars(kind)[method] for kind in ours if method in vars(kind)), None)
    if function is None:
        return ""
    names = ", ".join(["self", *list(inspect.signature(function).parameters)[1:]])
    return f". Define it as {method}({names})"


def _is_own(file: str) -> bool:
    """True if a recipe imported the file or its package, or one beside it that is no library's."""
    path = Path(file).resolve()
    named = (known.parent if known.name == "__init__.py" else known for known in _imported)
    if any(map(path.is_relative_to, named)):
        return True
    beside = any(path.is_relative_to(known.parent) for known in _imported)
    return beside and not any(map(path.is_relative_to, _NOT_OWN))


def _places(name: str, folder: Path) -> list[Path]:
    path = Path(name)
    return list(dict.fromkeys([folder / path, path, folder / "imports" / path.name]))


def _import_module(name: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        return f"{shown(name)} is no module's name. Name a module, or a file that ends in .py."
    try:
        file = importlib.import_module(name).__file__
    except ModuleNotFoundError as error:
        if not (error.name and f"{name}.".startswith(f"{error.name}.")):
            raise  # of a library that it imports
        return f"there is no module '{name}'. Install it, or name a file that ends in .py."
    if file is not None:
        _imported[Path(file).resolve()] = name
    return ""


def _import_file(name: str, folder: Path) -> str:
    path = import_files([name], folder).get(name)
    if path is None:
        try:
            usable(folder / usable(name))
        except errors.UsageError as error:
            return str(error)
        looked = ", ".join(map(str, _places(name, folder)))
        return f"there is no file '{name}'; looked for {looked}."
    known, before = imported_as(name, path), _imported.get(path)
    if known is None and before in sys.modules:
        return f"'{name}' has changed since this process imported it. Start a new process."
    _imported[path] = module_name = known or f"{path.stem}_{_digest(path)}"
    if known is not None:
        return ""
    spec: Any = importlib.util.spec_from_file_location(module_name, path)
    sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _where(error: BaseException) -> str:
    """The line of the user's own file if there is one, because the deepest line is often ours."""
    if isinstance(error, SyntaxError):
        return f" at {error.filename}:{error.lineno}"
    frames = _frames(error)
    own = [frame for frame in frames if _is_own(frame.filename)]
    return "".join(f" at {frame.filename}:{frame.lineno}" for frame in (own or frames)[-1:])


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
