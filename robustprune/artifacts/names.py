"""From the names in a checkpoint to a network's own: wrappers, aliases, copies, left-over parts."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

AVERAGED = re.compile(r"ema|averag|swa", re.IGNORECASE)
"""What names of running averages of weights hold; the weights themselves come first."""

_ALIASES = {
    **dict.fromkeys(("linear", "classifier", "last_linear", "head", "logits"), "fc"),
    "shortcut": "downsample",
}
"""Names of the same layer in torchvision's, timm's and RobustBench's code, and ours."""

_UNUSED = ("sub_block1.",)
"""Stages that no forward pass uses: TRADES' WideResNet makes its first one twice."""

_COUNTS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel
_MOST = 3  # names that are missing and looked for among those that are left over


class Aligned(NamedTuple):
    """A checkpoint's tensors, as far as they are a network's.

    Attributes:
        tensors: under the network's names.
        others: under their own, those that are none of the network's.
    """

    tensors: dict[str, Tensor]
    others: dict[str, Tensor]


def aligned(own: Iterable[str], tensors: Mapping[str, Tensor]) -> Aligned:
    """Find a network's tensors in a checkpoint, behind whatever prefix they stand.

    Names that are the network's are taken as they are. If some are not, it is the prefix under
    which most of them are found, and the same layer may go by another name. What stands beside
    that is left out if it is a copy, an average of the same weights, or never used.

    Args:
        own: the network's names.
        tensors: by name.
    """
    names = list(own)
    if tensors.keys() <= set(names):
        return Aligned(dict(tensors), {})
    known = {_canonical(name): name for name in names}
    if len(known) < len(names):  # of two layers that are aliases of each other elsewhere
        known = {name: name for name in names}
    depth = max(name.count(".") for name in names) + 1
    places = {name: _places(name, known, depth=depth) for name in tensors}
    found = Counter(prefix for place in places.values() for prefix in place)
    if not found:
        return Aligned({}, dict(tensors))
    prefix = min(found, key=lambda p: (-found[p], bool(AVERAGED.search(p)), len(p)))
    chosen: dict[str, str] = {}  # ours: theirs
    for exact in (True, False):
        for name, place in places.items():
            ours = place.get(prefix)
            if ours is not None and exact == (name == prefix + ours):
                chosen.setdefault(ours, name)
    inner = {ours: tensors[name] for ours, name in chosen.items()}
    rest = {name: tensors[name] for name in tensors.keys() - set(chosen.values())}
    copies = {p for p in found if found[p] == found[prefix] and AVERAGED.search(p)}
    others = {
        name: tensor
        for name, tensor in rest.items()
        if not (
            name.removeprefix(prefix).startswith(_UNUSED)
            or name.rpartition(".")[2] in _COUNTS
            or copies & places[name].keys()
            or any(_equal(tensor, inner.get(ours)) for ours in places[name].values())
        )
    }
    return Aligned(inner, dict(sorted(others.items())))


def hint(missing: Iterable[str], others: Iterable[str]) -> str:
    """What may help to see why names do not fit, as sentences to be put behind their list."""
    missing, others = list(missing)[:_MOST], list(others)
    columns = zip(*(name.split(".") for name in others), strict=False)
    common = [column[0] for column in itertools.takewhile(lambda c: len(set(c)) == 1, columns)]
    start = ".".join(common)
    several = start and len(others) > 1
    shared = f" All names that are left over begin with '{start}'." if several else ""
    pairs = [
        f"{name} ({close[0]})"
        for name in missing
        if (close := difflib.get_close_matches(name, others[:1000], n=1, cutoff=0.3))
    ]
    return f"{shared} Nearest to what is missing: {', '.join(pairs)}." if pairs else shared


def _places(name: str, known: Mapping[str, str], *, depth: int) -> dict[str, str]:
    """Each prefix behind which the rest of a name is one of the network's, and that name.

    Args:
        name: the checkpoint's.
        known: the network's, by what they are called among aliases.
        depth: most parts of a name of the network's.
    """
    parts = name.split(".")
    renamed = [_ALIASES.get(part, part) for part in parts]
    places = {}
    for start in range(max(0, len(parts) - depth), len(parts)):
        for rest in (parts[start:], renamed[start:]):
            if (ours := known.get(".".join(rest))) is not None:
                places["".join(f"{part}." for part in parts[:start])] = ours
    return places


def _canonical(name: str) -> str:
    return ".".join(_ALIASES.get(part, part) for part in name.split("."))


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and bool(torch.equal(one, other))
