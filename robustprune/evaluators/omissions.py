"""What an evaluator leaves out, so that it can be told once for all of its batches."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class Omission(NamedTuple):
    """Something that was not tried.

    Attributes:
        what: e.g. the name of a bound.
        why: half a sentence.
    """

    what: str
    why: str


Omissions = Counter[Omission]
"""For how many images each thing was left out."""


def told(omissions: Omissions) -> str:
    """What was left out, for how many images, and why."""
    return "; ".join(
        f"'{what}' for {n} image{'s' * (n > 1)} ({why})" for (what, why), n in omissions.items()
    )
