"""How pruners look, the same in every figure, and readable by colour-blind eyes and in grey."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Look(NamedTuple):
    """The colour of a pruner, and a marker that tells it apart where colours do not."""

    colour: str
    marker: str


# Okabe, Ito 2008, *Color Universal Design*; without its yellow, which is too pale for a line
_KNOWN = {
    "dense": Look("#000000", "s"),
    "hydra": Look("#0072B2", "o"),
    "magnitude": Look("#D55E00", "^"),
    "random": Look("#767676", "v"),
}
_SPARE = (
    Look("#009E73", "D"),
    Look("#CC79A7", "P"),
    Look("#E69F00", "X"),
    Look("#56B4E9", "p"),
    Look("#882255", "*"),
)
STYLES = ("-", "--", ":", "-.")
"""Line styles of densities, the largest first."""


def looks(variants: Iterable[str]) -> dict[str, Look]:
    """A look for each variant: HYDRA, magnitude and random always have theirs and come first.

    The others get the spare ones in alphabetical order, which repeat after five.
    """
    wanted = set(variants)
    known = [name for name in _KNOWN if name in wanted]
    others = sorted(wanted - _KNOWN.keys())
    found = {name: _KNOWN[name] for name in known}
    return found | {name: _SPARE[i % len(_SPARE)] for i, name in enumerate(others)}
