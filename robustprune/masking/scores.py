"""Score initialisations: the importance of each connection before anything is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ScoreInit = Literal["scaled_magnitude", "magnitude", "kaiming", "xavier", "random"]
"""The names of the initialisations, as recipes write them."""


def init_scores(weight: Tensor, name: ScoreInit, generator: torch.Generator) -> Tensor:
    """Scores for one layer, of the weight's shape, dtype, device and memory format.

    Args:
        weight: ``(out, in, …)`` of a convolution or a linear layer.
        name: ``scaled_magnitude`` is HYDRA's; ``magnitude`` is the weight itself; ``kaiming`` and
            ``xavier`` are uniform within a bound of the layer's own, ``random`` is uniform in
            [0, 1) in every layer.
        generator: what those three draw from, on the CPU.
    """
    import torch

    # contiguous and on the CPU, so that random scores depend on neither layout nor device
    scores = _INITS[name](weight.detach().cpu().contiguous(), generator)
    return torch.empty_like(weight).copy_(scores)


def _scaled_magnitude(weight: Tensor, generator: torch.Generator) -> Tensor:
    """``sqrt(6 / fan_in) · w / max|w|``: the paper's scaled initialisation. All-zero stays zero."""
    largest = weight.abs().max()
    if largest == 0:
        return weight.clone()
    fan_in = weight[0].numel()
    return math.sqrt(6 / fan_in) * weight / largest


def _kaiming(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform with bound ``sqrt(6 / ((1 + 5) · fan_in))``: torch's own for these layers."""
    from torch.nn import init

    return init.kaiming_uniform_(weight.clone(), a=math.sqrt(5), generator=generator)


def _xavier(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform with bound ``sqrt(6 / (fan_in + fan_out))``."""
    from torch.nn import init

    return init.xavier_uniform_(weight.clone(), generator=generator)


def _random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1) whatever the layer, so that every allocation treats layers alike."""
    return weight.clone().uniform_(generator=generator)


def _magnitude(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The weight itself."""
    return weight


_INITS: dict[ScoreInit, Callable[[Tensor, torch.Generator], Tensor]] = {
    "scaled_magnitude": _scaled_magnitude,
    "magnitude": _magnitude,
    "kaiming": _kaiming,
    "xavier": _xavier,
    "random": _random,
}
assert set(_INITS) == set(get_args(ScoreInit))
