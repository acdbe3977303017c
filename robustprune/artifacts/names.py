"""From a checkpoint's tensors to a network's own: wrappers, aliases, copies, computed weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

AVERAGED = re.compile(r"ema|averag|swa", re.IGNORECASE)
"""Matches names of running averages of weights; the weights themselves come first."""

_ALIASES = {
    **dict.fromkeys(("linear", "classifier", "last_linear", "head", "logits"), "fc"),
    "shortcut": "downsample",
}
"""Names of the same layer in torchvision's, timm's and RobustBench's code, and ours."""

_UNUSED = "sub_block1."  # no forward pass uses it: TRADES' WideResNet makes its first stage twice
_COUNT = "n_averaged"  # of torch.optim.swa_utils.AveragedModel

COMPUTED = re.compile(r"(?:.*\.)?(?:parametrizations\..*|\w+_orig|weight_[gv])")
"""Names of parts of a weight that is computed: parametrised, pruned, or normalised by a hook."""

Tensors = dict[str, Tensor]


def aligned(own: Iterable[str], tensors: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
    """Find a network's tensors in a checkpoint, behind whatever prefix they stand.

    Names that are the network's are taken as they are. If some are not, it is the prefix under
    which most of them are found, and the same layer may go by another name. Copies, averages of the
    same weights, and what is never used are left out.

    Returns:
        Those that are the network's, under its ``own`` names, and the others under theirs.
    """
    names = list(own)
    if tensors.keys() <= set(names):
        return dict(tensors), {}
    known = {".".join(_ALIASES.get(p, p) for p in name.split(".")): name for name in names}
    if len(known) < len(names):  # of two layers that are aliases of each other elsewhere
        known = {name: name for name in names}
    depth = max(name.count(".") for name in names) + 1
    places = {name: _places(name, known, depth=depth) for name in tensors}
    found = Counter(prefix for place in places.values() for prefix in place)
    if not found:
        return {}, dict(tensors)
    prefix = min(found, key=lambda p: (-found[p], bool(AVERAGED.search(p)), len(p)))
    chosen: dict[str, str] = {}  # ours: theirs, those without an alias first
    for name in sorted(places, key=lambda n: n != prefix + places[n].get(prefix, "")):
        if prefix in places[name]:
            chosen.setdefault(places[name][prefix], name)
    inner = {ours: tensors[name] for ours, name in chosen.items()}
    copies = {p for p in found if found[p] == found[prefix] and AVERAGED.search(p)}
    others = {
        name: tensors[name]
        for name in sorted(tensors.keys() - set(chosen.values()))
        if not (
            name.removeprefix(prefix).startswith(_UNUSED)
            or name.rpartition(".")[2] == _COUNT
            or copies & places[name].keys()
            or any(
                ours in inner and torch.equal(tensors[name], inner[ours])
                for ours in places[name].values()
            )
        )
    }
    return inner, others


def with_weights_computed(tensors: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
    """A state dict with weights in place of what they are computed from; masks, boolean, by weight.

    Those are masks, and the weight and spectral normalisation of PyTorch as it is in eval mode.
    """
    found, masks = dict(tensors), {}
    for pattern, others, compute in _FORMS:
        for name in list(found):
            match = re.fullmatch(rf"(.*\.)?{pattern}", name)
            if match is None or name not in found:
                continue
            own = (match[1] or "", match[2])
            names = [name, *(other.format(*own) for other in others)]
            parts = [found[part] for part in names if part in found]
            if len(parts) < len(names) or (weight := compute(*parts)) is None:
                continue
            for used in (*names, f"{_STATE.format(*own)}0.scores"):  # the last is this package's
                found.pop(used, None)
            found["".join(own)] = weight
            if compute is _masked:
                masks["".join(own)] = parts[1] != 0
    return found, masks


def _masked(weight: Tensor, mask: Tensor) -> Tensor | None:
    if mask.shape != weight.shape or mask.is_complex():
        return None
    return torch.where(mask != 0, weight * mask.to(weight.dtype), 0.0)  # a product may be -0.0


def _weight_normed(size: Tensor, direction: Tensor) -> Tensor | None:
    """``g · v / ‖v‖``; the norm is over all dimensions in which g has one entry."""
    kept = [d for d, length in enumerate(size.shape) if length != 1]
    fits = size.ndim in (0, direction.ndim) and all(
        size.shape[d] == direction.shape[d] for d in kept
    )
    if not (fits and len(kept) <= 1 and direction.is_floating_point()):
        return None
    return direction * (size / torch.norm_except_dim(direction, 2, kept[0] if kept else -1))


def _spectral_normed(weight: Tensor, u: Tensor, v: Tensor) -> Tensor | None:
    """``W / σ`` with σ = uᵀWv."""
    if weight.ndim < 2 or not weight.dtype == u.dtype == v.dtype:
        return None
    if u.shape != weight.shape[:1] or v.shape != (weight[:1].numel(),):
        return None
    return weight / torch.dot(u, torch.mv(weight.flatten(1), v))


_PARAMETRIZED = r"parametrizations\.(\w+)\.original"
_STATE = "{}parametrizations.{}."
_FORMS: tuple[tuple[str, tuple[str, ...], Callable[..., Tensor | None]], ...] = (
    (r"(\w+)_orig", ("{}{}_mask",), _masked),  # torch.nn.utils.prune
    (r"(\w+)_orig", ("{}{}_u", "{}{}_v"), _spectral_normed),
    (r"(\w+)_g", ("{}{}_v",), _weight_normed),
    (f"{_PARAMETRIZED}0", (f"{_STATE}original1",), _weight_normed),
    (_PARAMETRIZED, (f"{_STATE}0._u", f"{_STATE}0._v"), _spectral_normed),
    (_PARAMETRIZED, (f"{_STATE}0.mask",), _masked),  # this package
    (r"(\w+)", ("{}{}_mask",), _masked),  # masks beside weights
)
"""The ways to keep a weight: the pattern of its first part, its other parts, and what it is."""


def _places(name: str, known: Mapping[str, str], *, depth: int) -> dict[str, str]:
    """Each prefix behind which the rest of a name is one of the network's, and that name."""
    parts = name.split(".")
    renamed = [_ALIASES.get(part, part) for part in parts]
    places = {}
    for start in range(max(0, len(parts) - depth), len(parts)):
        for rest in (parts[start:], renamed[start:]):
            if (ours := known.get(".".join(rest))) is not None:
                places["".join(f"{part}." for part in parts[:start])] = ours
    return places
