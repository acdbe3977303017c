"""α-CROWN: CROWN whose slopes under ReLU are chosen by gradient ascent on the bound itself.

Source: Xu et al. 2021 (arXiv 2011.13824), with the bounds of hidden layers fixed at CROWN's, which
costs a twentieth of optimising them too.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

INSIDE = 1e-3
"""How far slopes keep from 0 and 1. The library clamps them to [0, 1], and in recent torch
the gradient of a clamp is 0 at its ends, where CROWN's own slopes lie: they would stay."""


def optimise(graph: Any, ball: Any, specification: Tensor, *, iterations: int) -> Tensor:
    """Lower bounds, none below CROWN's: ``(n, rows)``, without a graph of their own.

    Args:
        graph: auto-LiRPA's, its tensors free of gradients.
        ball: a bounded tensor of n images.
        specification: ``(n, rows, classes)``.
        iterations: gradient steps, at least 1.
    """
    passes = iterations + 1  # the library's last one takes no step
    graph.set_bound_opts({"optimize_bound_args": {"iteration": passes, "init_alpha": False}})
    initialise = getattr(graph, "init_slope", None) or graph.init_alpha  # its name since 0.4
    crown, _, hidden = initialise((ball,), method="backward", c=specification, bound_upper=False)
    if not _keep_inside(graph):
        return crown.detach()  # type: ignore[no-any-return]
    with torch.enable_grad():
        bound, _ = graph.compute_bounds(
            x=(ball,),
            C=specification,
            method="CROWN-Optimized",
            bound_upper=False,
            **{_name_of_hidden(graph): hidden},
        )
    return torch.maximum(crown, bound).detach()


def _keep_inside(graph: Any) -> bool:
    """Move every slope off the ends of [0, 1], now and after each step; False if there is none."""
    found = False
    for node in graph.optimizable_activations:
        if type(node).__name__ == "BoundRelu" and node.alpha:

            def clip(node: Any = node) -> None:
                for slope in node.alpha.values():
                    slope.data.clamp_(INSIDE, 1 - INSIDE)

            clip()
            node.clip_alpha_ = clip
            found = True
    return found


def _name_of_hidden(graph: Any) -> str:
    """The argument that takes the bounds of hidden layers; newer versions have shortened it."""
    names = inspect.signature(graph.compute_bounds).parameters
    return "interm_bounds" if "interm_bounds" in names else "intermediate_layer_bounds"
