"""What a method needs beside the network that is pruned: earlier ones, fresh ones, masks."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from robustprune.errors import UsageError
from robustprune.models import create_model
from robustprune.pipeline.networks import MASK


def tensors_by_name(value: Any) -> dict[str, Tensor]:
    """Tensors by name: of a network, or of what `rp.prune` gave its masks."""
    if isinstance(value, nn.Module):
        held: Any = value.state_dict()
    else:
        held = getattr(value, "masks", value)  # of `Pruned`, or of a masked network
    if not isinstance(held, Mapping) or not all(isinstance(t, Tensor) for t in held.values()):
        raise UsageError(
            f"checkpoints: expected a network, a state dict or masks by name; got {held!r:.60}."
        )
    return {name: tensor.detach() for name, tensor in held.items()}


def check_needs(needs: Collection[str], given: Collection[str], *, called: str) -> None:
    """Make sure that a pruner has the networks and masks that it needs, before any training.

    The network that is given is the dense one, and the initial one where a method begins with
    that: one that needs both must be told the other.
    """
    if odd := [key for key in given if key not in needs]:
        wanted = ", ".join(f"'{need}'" for need in needs)
        raise UsageError(f"checkpoints: {called} does not need '{odd[0]}'. It needs: {wanted}.")
    known = {"dense", "fresh", *given} | ({"init"} if "dense" not in needs else set())
    for need in (need for need in needs if need not in known):
        what = "the network as it was then, which a trained one does not tell"
        if need.startswith(MASK):
            what = f"the masks of '{need.removeprefix(MASK)}'"
        raise UsageError(
            f"method: {called} needs '{need}', {what}. Give its tensors by name: "
            f"checkpoints={{'{need}': …}}."
        )


def reset(model: nn.Module) -> nn.Module:
    """A copy with an initialisation of its own, drawn from the global generators."""
    if (made := getattr(model, "created_with", None)) is not None:
        return create_model(**made)
    fresh = copy.deepcopy(model)
    layers = [(name, layer) for name, layer in fresh.named_modules() if layer._parameters]
    if others := [name for name, one in layers if not hasattr(one, "reset_parameters")]:
        raise UsageError(
            "method: it needs a network of another initialisation, and of these parts of the "
            f"network none has reset_parameters(): {', '.join(others[:5]) or type(model).__name__}."
            " Give one: checkpoints={'fresh': …}."
        )
    for layer in fresh.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()  # type: ignore[operator]
    return fresh
