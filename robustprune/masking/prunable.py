"""The weights of a network that can be pruned, and what keeps one from being masked exactly."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from robustprune.errors import UsageError, first_line, nearest
from robustprune.masking.structures import Ends
from robustprune.seeding import fork
from robustprune.train_mode import eval_mode

Layer = nn.Conv2d | nn.Linear

_EXACT = (nn.Conv2d, nn.Linear, NonDynamicallyQuantizableLinear)
"""Layers that multiply by their weight as it is; subclasses are tried out."""
_PRODUCTS: tuple[Callable[..., Any], ...] = (
    *(F.conv2d, F.conv_transpose2d, F.linear, F.bilinear, torch.einsum),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm),
)
"""Functions by which a layer multiplies its input by a weight."""


class Prunable(NamedTuple):
    """One weight that can be pruned.

    Attributes:
        name: of its first layer.
        weight: ``(out, in, …)``.
        layers: those that compute with it, by name; more than one where layers share it.
    """

    name: str
    weight: Tensor
    layers: dict[str, Layer]


def prunable_layers(model: nn.Module) -> dict[str, Layer]:
    """The layers whose weights can be pruned, by name: Conv2d and Linear.

    Of layers that share a weight the first stands for all.
    """
    return {prunable.name: next(iter(prunable.layers.values())) for prunable in _found(model)}


def prunable_weights(
    model: nn.Module, exclude: str | Sequence[str] = (), *, include: str | Sequence[str] = "*"
) -> list[Prunable]:
    """The weights of a network that can be pruned, each once, in the network's order.

    Args:
        model: any network.
        exclude: layers to leave out, by name or pattern (``layer4.*``), whatever they are.
        include: layers to take, in the same way.

    Raises:
        UsageError: there is none, or one that cannot be masked exactly: the network would compute
            with something else than what the mask keeps. Names the layer and the remedy.
    """
    every = list(_found(model))
    if not every:
        raise UsageError(f"{type(model).__name__} has no Conv2d or Linear layer to prune.")
    names = [name for prunable in every for name in prunable.layers]
    out, taken = _matching("exclude", exclude, names), _matching("include", include, names)
    left = [one for one in every if not out & one.layers.keys() and taken & one.layers.keys()]
    if not left:
        patterns = exclude if isinstance(exclude, str) else ", ".join(exclude)
        raise UsageError(f"exclude: {patterns} leaves no layer to prune.")
    problems = [
        f"layer '{name}' ({type(layer).__name__}) cannot be masked: {reason}."
        for prunable in left
        for name, layer in prunable.layers.items()
        if (reason := _problem(layer))
    ]
    if problems := problems or list(_shared(model, left)):
        more = f"\nand {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UsageError("\n".join(problems[:10]) + more)
    return left


def _matching(option: str, patterns: str | Sequence[str], names: Sequence[str]) -> set[str]:
    """The layers that any of the patterns fits; one that fits none is refused."""
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        fitting = fnmatch.filter(names, pattern)
        if not fitting:
            raise UsageError(f"{option}: no layer is called '{pattern}'.{nearest(pattern, names)}")
        found.update(fitting)
    return found


def ends(model: nn.Module) -> Ends:
    """The layers that see the images, and those that give the logits.

    They are those that timm's configuration names (``first_conv`` and ``classifier``; several in a
    network with several stems or heads). Where a network has none, they are the first and the last
    prunable layer in its own order, which is that in which its modules were made. A network that
    branches at an end, or makes its modules in another order, needs ``exclude`` for the others.
    """
    layers = [prunable.layers.keys() for prunable in _found(model)]
    named = [_named(model, layers, key) for key in ("first_conv", "classifier")]
    first, last = ({next(iter(names))} for names in (layers[0], layers[-1]))
    return Ends(inputs=named[0] or first, outputs=named[1] or last)


def _named(model: nn.Module, layers: Sequence[Collection[str]], key: str) -> set[str]:
    """The layers, each by the first of its names, that timm's configuration has under a key."""
    for place, module in model.named_modules():
        config = getattr(module, "pretrained_cfg", None)
        if not isinstance(config, Mapping):
            continue
        names = config.get(key) or ()
        names = (names,) if isinstance(names, str) else names
        prefixes = [f"{place}.{name}.".removeprefix(".") for name in names]
        return {
            next(iter(own))
            for own in layers
            if any(f"{name}.".startswith(prefix) for name in own for prefix in prefixes)
        }
    return set()


def _found(model: nn.Module) -> Iterator[Prunable]:
    shared: dict[int, dict[str, Layer]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            shared.setdefault(id(_parameter(layer)), {})[name] = layer
    for layers in shared.values():
        name, first = next(iter(layers.items()))
        yield Prunable(name, first.weight, layers)


def _parameter(layer: Layer) -> Any:
    """The tensor that layers have in common if they share it; the layer if it is computed."""
    if parametrize.is_parametrized(layer, "weight"):
        return getattr(layer.parametrizations["weight"], "original", layer)  # type: ignore[index]
    return layer._parameters.get("weight", layer)


def _shared(model: nn.Module, prunables: Sequence[Prunable]) -> Iterator[str]:
    """Weights that others compute with, who would go on with the pruned entries."""
    modules = list(model.named_modules(remove_duplicate=False))
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    places = [(name, t, t.untyped_storage().data_ptr()) for name, t in tensors]
    for prunable in prunables:
        layers, weight = {id(layer) for layer in prunable.layers.values()}, prunable.weight
        own = {f"{n}.weight".removeprefix(".") for n, module in modules if id(module) in layers}
        here = weight.untyped_storage().data_ptr()
        same = (n for n, t, place in places if t is weight or (here and place == here))
        if other := next((name for name in same if name not in own), None):
            yield (
                f"layer '{prunable.name}' cannot be masked: its weight is also '{other}', "
                "which would keep what is pruned. Give each a tensor of its own, or share one "
                "torch.nn.Parameter between Conv2d or Linear layers only."
            )


def _problem(layer: Layer) -> str:
    """The reason why the layer cannot be masked exactly; empty if it can."""
    if parametrize.is_parametrized(layer, "weight"):
        kinds = ", ".join(type(p).__name__ for p in layer.parametrizations["weight"])  # type: ignore[index]
        return (
            f"its weight is parametrized ({kinds}). Write the present value into the layer first: "
            "bake() of its MaskedModel, or torch.nn.utils.parametrize.remove_parametrizations("
            "layer, 'weight')"
        )
    weight = layer._parameters.get("weight")
    if weight is None:
        return (
            "its weight is computed from other tensors by a hook. Make it a parameter again first, "
            "in torch.nn.utils: remove_weight_norm(layer), remove_spectral_norm(layer) or "
            "prune.remove(layer, 'weight')"
        )
    if isinstance(weight, nn.UninitializedParameter):
        return "it has no weight yet. Pass a batch through the network first"
    if not weight.is_floating_point() or weight.layout is not torch.strided:
        return (
            f"its weight is {weight.dtype}, {weight.layout}. A mask needs dense floats: use the "
            "network as it was before quantisation, or weight.to_dense()"
        )
    plain = type(layer) in _EXACT and "forward" not in vars(layer) and not layer._forward_pre_hooks
    return "" if plain else _multiplied(layer)


def _multiplied(layer: Layer) -> str:
    """The reason if the layer computes with more than a mask would keep of its weight; else empty.

    It is tried out: half of its weight is zero, and what it multiplies by may have no more entries
    that are not.
    """
    if isinstance(layer, nn.Linear):
        shape: Sequence[int] = (2, layer.in_features)
    else:
        sides = (d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        shape = (2, layer.in_channels, *sides)
    images = layer.weight.new_zeros(*shape)  # none of its entries is counted
    with fork(0, "probe"), eval_mode(layer), torch.no_grad():
        kept = torch.rand_like(layer.weight) < 0.5
        weight = torch.where(kept, torch.rand_like(layer.weight) + 0.5, 0.0)
        products = _Products(weight.numel())
        try:
            with products:
                torch.func.functional_call(layer, {"weight": weight}, (images,))
        except Exception as error:  # of anybody's layer
            return f"it could not be tried out ({first_line(error)})"
    if not products.counts:
        return "it does not multiply by its weight in a way that can be followed"
    if max(products.counts) > int(kept.sum()):
        return (
            "it changes its weight before it multiplies (as weight standardisation does), so that "
            "pruned entries would not be zero. Use a network with plain convolutions"
        )
    return ""


class _Products(TorchFunctionMode):
    """Counts the entries that are not zero, of each tensor of a size that a layer multiplies by."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.counts = size, list[int]()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _PRODUCTS:
            tensors = (t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
            self.counts += [int(t.count_nonzero()) for t in tensors if t.numel() == self.size]
        return func(*args, **(kwargs or {}))
