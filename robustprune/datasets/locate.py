"""Where files are looked for, and what is said if they are not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from robustprune.errors import UsageError
from robustprune.paths import usable

VARIABLE = "ROBUSTPRUNE_DATA"
"""The environment variable that names the folder of all datasets."""


def places(path: Path, *others: str) -> list[Path]:
    """Every path that ``path`` may mean, in the order in which they are tried.

    An absolute path means itself. A relative one is meant from the working directory, then from
    $ROBUSTPRUNE_DATA; ``others`` are names that are tried there too.

    Raises:
        UsageError: the variable holds what cannot be a path.
    """
    path = Path(os.path.expanduser(path))  # unlike pathlib's, it never raises
    if path.is_absolute():
        return [path]
    shared = os.environ.get(VARIABLE)
    if not shared:
        return [Path.cwd() / path]
    try:
        base = usable(os.path.expanduser(shared)).absolute()
    except UsageError as error:
        raise UsageError(f"{VARIABLE}: {error}") from None
    found = [Path.cwd() / path, base / path, *(base / other for other in others)]
    return list(dict.fromkeys(found))


def missing(what: str, looked_for: str, where: Sequence[Path], remedy: str) -> UsageError:
    """The error that says what was looked for, in which places, and how to get it."""
    listed = "".join(f"\n  {place}" for place in where)
    hint = "" if os.environ.get(VARIABLE) else f"\n{VARIABLE} is not set."
    return UsageError(f"{what} not found. Looked for {looked_for} in{listed}\n{remedy}{hint}")
