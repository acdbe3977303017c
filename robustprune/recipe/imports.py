"""``imports:``, the one way in which a recipe runs code."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path

from robustprune.errors import Problem


def run_imports(names: object, folder: Path) -> list[Problem]:
    """Import each named file or module once a process, so that it registers its parts.

    Args:
        names: the recipe's list; a name that ends in ``.py`` is a file, relative to ``folder`` or
            to the working directory; any other is a module.
        folder: the recipe's.

    Returns:
        A problem for each that is missing or raises.
    """
    if not isinstance(names, list):
        return []  # the schema says what is wrong with it, and with items that are no text
    texts = [(index, name) for index, name in enumerate(names) if isinstance(name, str)]
    messages = [(index, _import(name, folder)) for index, name in texts]
    return [Problem(("imports", index), message) for index, message in messages if message]


def _import(name: str, folder: Path) -> str | None:
    try:
        if name.endswith(".py"):
            return _import_file(name, folder)
        if not all(part.isidentifier() for part in name.split(".")):
            return f"'{name}' is no module's name. Name a module, or a file that ends in .py."
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            return f"there is no module '{name}'. Install it, or name a file that ends in .py."
        return _raised(name, error)
    except (Exception, SystemExit) as error:
        return _raised(name, error)
    return None


def _import_file(name: str, folder: Path) -> str | None:
    places = [folder / name, Path(name)]
    path = next((place.resolve() for place in places if place.is_file()), None)
    if path is None:
        looked = " and ".join(str(place) for place in dict.fromkeys(places))
        return f"there is no file '{name}'; looked for {looked}."
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return None
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
