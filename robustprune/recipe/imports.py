"""``imports:``, the one way in which a recipe runs code."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from robustprune.errors import Problem, UsageError
from robustprune.paths import usable
from robustprune.sentences import shown

imported: set[Path] = set()
"""The files that recipes have named in this process: their own, or their modules'."""


def run_imports(names: object, folder: Path) -> list[Problem]:
    """Import each named file or module once a process, so that it registers its parts.

    Files of the same content count as one, so that a run's copy is not run beside its original.

    Args:
        names: the recipe's list; a name that ends in ``.py`` is a file, see `import_files`; any
            other is a module.
        folder: the recipe's.

    Returns:
        A problem for each that is missing or raises.
    """
    if not isinstance(names, list):
        return []  # the schema says what is wrong with it, and with items that are no text
    texts = [(index, name) for index, name in enumerate(names) if isinstance(name, str)]
    messages = [(index, _import(name, folder)) for index, name in texts]
    return [Problem(("imports", index), message) for index, message in messages if message]


def import_files(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The file that each entry means; entries that are modules, or not found, are left out.

    A relative entry is looked for from ``folder``, then from the working directory, then by its
    last part in ``folder/imports``, where a run's folder keeps copies.

    Args:
        names: the recipe's list.
        folder: the recipe's.
    """
    files = {name: _found(name, folder) for name in names if name.endswith(".py")}
    return {name: path for name, path in files.items() if path is not None}


def imported_as(name: str, path: Path | None) -> str | None:
    """The name of the module that an entry has become; None if nothing was imported.

    Args:
        name: the entry.
        path: its file; None for a module.
    """
    if path is None:
        return name if name in sys.modules else None
    digest = _digest(path)
    return next((known for known in list(sys.modules) if known.endswith(f"_{digest}")), None)


def _places(name: str, folder: Path) -> list[Path]:
    path = Path(name)
    places = [folder / path, path, folder / "imports" / path.name]
    return list(dict.fromkeys(places))


def _found(name: str, folder: Path) -> Path | None:
    places = _places(name, folder)
    return next((place.resolve() for place in places if os.path.isfile(place)), None)


def _import(name: str, folder: Path) -> str | None:
    try:
        if name.endswith(".py"):
            return _import_file(name, folder)
        if not all(part.isidentifier() for part in name.split(".")):
            return f"{shown(name)} is no module's name. Name a module, or a file that ends in .py."
        file = importlib.import_module(name).__file__
        if file is not None:
            imported.add(Path(file).resolve())
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            return f"there is no module '{name}'. Install it, or name a file that ends in .py."
        return _raised(name, error)
    except (Exception, SystemExit) as error:
        return _raised(name, error)
    return None


def _import_file(name: str, folder: Path) -> str | None:
    path = _found(name, folder)
    if path is None:
        return _absent(name, folder)
    imported.add(path)
    if imported_as(name, path) is not None:
        return None
    if any(vars(module).get("__file__") == str(path) for module in _ours(path)):
        return f"'{name}' has changed since this process imported it. Start a new process."
    module_name = f"{path.stem}_{_digest(path)}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return None


def _absent(name: str, folder: Path) -> str:
    try:
        usable(folder / usable(name))
    except UsageError as error:
        return f"{error}"
    *others, last = map(str, _places(name, folder))
    looked = f"{', '.join(others)} and {last}" if others else last
    return f"there is no file '{name}'; looked for {looked}."


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _ours(path: Path) -> list[ModuleType]:
    """The modules that were made of files called like ``path``."""
    return [m for known, m in list(sys.modules.items()) if known.startswith(f"{path.stem}_")]


def _raised(name: str, error: BaseException) -> str:
    return f"importing '{name}' raised {type(error).__name__}{_where(name, error)}: {error}"


def _where(name: str, error: BaseException) -> str:
    """The line of the user's own file if there is one, because the deepest line is often ours."""
    if isinstance(error, SyntaxError):
        return f" at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    stem = Path(name).stem if name.endswith(".py") else name.rpartition(".")[2]
    own = [frame for frame in frames if Path(frame.filename).stem == stem]
    found = own[-1:] or frames[-1:]
    return "".join(f" at {frame.filename}:{frame.lineno}" for frame in found)
