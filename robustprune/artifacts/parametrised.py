"""Weights that a state dict holds as what they are computed from, as PyTorch's own tools keep them.

Each is known by the names of its parts: pruning (`torch.nn.utils.prune`, and masks kept beside
weights), weight and spectral normalisation (both as hooks and as parametrizations), and the masks
of this package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_WEIGHT = r"(?P<module>(?:.*\.)?)(?P<weight>\w+)"
_STATE = r"(?P<module>(?:.*\.)?)parametrizations\.(?P<weight>\w+)"


class _Form(NamedTuple):
    """One way to keep a weight.

    Attributes:
        first: the pattern of its first part's name; ``module`` and ``weight`` name the weight.
        parts: names of all parts, with those two to be filled in; the first stands for itself.
        join: from the parts to the weight and its mask; None where they do not fit together.
        more: parts that say nothing about the weight.
    """

    first: str
    parts: tuple[str, ...]
    join: Callable[..., tuple[Tensor, Tensor | None] | None]
    more: tuple[str, ...] = ()


def written_out(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict with the weights themselves in place of their parts, and the masks among those.

    What belongs to no known form stays as it is.

    Args:
        tensors: by name.

    Returns:
        Tensors, and boolean masks by the name of their weight.
    """
    found, masks = dict(tensors), {}
    for form in _FORMS:
        for name in list(found):
            match = re.fullmatch(form.first, name)
            if match is None or name not in found:
                continue
            names = [part.format(**match.groupdict()) for part in form.parts]
            if not found.keys() >= set(names):
                continue
            made = form.join(*(found[part] for part in names))
            if made is None:
                continue
            for used in (*names, *(part.format(**match.groupdict()) for part in form.more)):
                found.pop(used, None)
            own = f"{match['module']}{match['weight']}"
            found[own] = made[0]
            if made[1] is not None:
                masks[own] = made[1]
    return found, masks


def computed(names: Iterable[str]) -> list[str]:
    """Those names that are parts of a weight which `written_out` could not compute."""
    return [name for name in names if ".parametrizations." in f".{name}" or name.endswith("_orig")]


def _masked(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor] | None:
    if weight.shape != mask.shape or mask.is_complex():
        return None
    kept = mask != 0
    return torch.where(kept, weight * mask.to(weight.dtype), 0.0), kept  # a product may be -0.0


def _weight_normed(size: Tensor, direction: Tensor) -> tuple[Tensor, None] | None:
    """``g · v / ‖v‖``; the norm is over all dimensions in which g has one entry."""
    kept = [d for d, length in enumerate(size.shape) if length != 1]
    fits = size.ndim in (0, direction.ndim) and all(
        size.shape[d] == direction.shape[d] for d in kept
    )
    if not (fits and len(kept) <= 1 and _are_floats(size, direction)):
        return None
    norm = torch.norm_except_dim(direction, 2, kept[0] if kept else -1)
    return direction * (size / norm), None


def _spectrally_normed(weight: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, None] | None:
    """``W / σ`` with σ = uᵀWv, as in eval mode, for a W of two dimensions or more."""
    if weight.ndim < 2 or not weight.numel() or not _are_floats(weight, u, v):
        return None
    if u.shape != weight.shape[:1] or v.shape != weight[0].flatten().shape:
        return None
    return weight / torch.dot(u, torch.mv(weight.flatten(1), v)), None


def _are_floats(*parts: Tensor) -> bool:
    return all(part.is_floating_point() and part.dtype == parts[0].dtype for part in parts)


_FORMS = (
    _Form(f"{_WEIGHT}_orig", ("{module}{weight}_orig", "{module}{weight}_mask"), _masked),
    _Form(
        f"{_WEIGHT}_orig",
        ("{module}{weight}_orig", "{module}{weight}_u", "{module}{weight}_v"),
        _spectrally_normed,
    ),
    _Form(f"{_WEIGHT}_g", ("{module}{weight}_g", "{module}{weight}_v"), _weight_normed),
    _Form(
        rf"{_STATE}\.original0",
        (
            "{module}parametrizations.{weight}.original0",
            "{module}parametrizations.{weight}.original1",
        ),
        _weight_normed,
    ),
    _Form(
        rf"{_STATE}\.original",
        (
            "{module}parametrizations.{weight}.original",
            "{module}parametrizations.{weight}.0._u",
            "{module}parametrizations.{weight}.0._v",
        ),
        _spectrally_normed,
    ),
    _Form(
        rf"{_STATE}\.original",
        ("{module}parametrizations.{weight}.original", "{module}parametrizations.{weight}.0.mask"),
        _masked,
        more=(
            "{module}parametrizations.{weight}.0.scores",
            "{module}parametrizations.{weight}.0.initial",
        ),
    ),
    _Form(_WEIGHT, ("{module}{weight}", "{module}{weight}_mask"), _masked),
)
