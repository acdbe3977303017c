"""Backends: the formats that networks are exported to. Each is a file of this folder."""

from __future__ import annotations

from pathlib import Path
from pkgutil import iter_modules

from robustprune.artifacts.backends.base import Backend
from robustprune.errors import UsageError
from robustprune.registry import Registry

registry: Registry[Backend] = Registry(
    "backends",
    base=Backend,
    modules=[f"{__name__}.{file.name}" for file in iter_modules(__path__) if file.name != "base"],
)
register, create, names, get = registry.register, registry.create, registry.names, registry.get


def named_by(path: Path) -> str:
    """The name of the backend whose ending a file has; the longest ending decides.

    Raises:
        UsageError: no backend's or several backends' files end so; the choices are listed.
    """
    endings = [(suffix, name) for name in names() for suffix in get(name).suffixes]
    fitting = [one for one in endings if path.name.endswith(one[0])]
    longest = max((len(suffix) for suffix, _ in fitting), default=0)
    found = [one for one in fitting if len(one[0]) == longest]
    if len(found) == 1:
        return found[0][1]
    formats = {name for _, name in found} or set(names())
    choices = [one for one in endings if one not in found and one[1] in formats]
    reason = "several formats' files end so" if found else "no format's files end so"
    raise UsageError(
        f"{path}: {reason}. Name the format with --format, or choose an ending:\n"
        + "\n".join(f"  {suffix:<22} {name}" for suffix, name in choices)
    )


__all__ = ["Backend", "create", "get", "named_by", "names", "register"]
