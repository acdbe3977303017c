"""A network whose weights are masked, in place, on its own layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robustprune.errors import UsageError, nearest
from robustprune.masking.prunable import Prunable, ends, prunable_weights
from robustprune.masking.structures import Structure, create
from robustprune.masking.table import LayerReport, as_text, layer_table
from robustprune.unparametrize import drop_parametrizations

Tensors = Mapping[str, Tensor]
"""By the weight's name, e.g. ``conv1.weight``."""


class Mask(nn.Module):
    """Shows a layer ``where(mask, weight, 0)`` and lets gradients through to the scores.

    The mask is stored, never recomputed here: `MaskedModel.set` alone changes it.

    Attributes:
        mask: boolean, the weight's shape; all true at first.
        scores: one real per weight, or None where nothing is learned about the mask.
        dense: whether pruned weights get their gradients too.
    """

    mask: Tensor
    scores: nn.Parameter | None

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.register_parameter("scores", None)
        self.dense = False

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, same shape. Pruned entries are +0.0."""
        masked: Tensor = _MaskedWeight.apply(weight, self.scores, self.mask, self.dense)
        return masked


class _MaskedWeight(torch.autograd.Function):
    """``m ⊙ w`` with ``m = topk(|s|)``, straight-through: ``dm/d|s| = 1``, so ``ds = g·w·sign(s)``.

    Source: Sec. 3.2 of HYDRA; Ramanujan et al. 2020 for the straight-through gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scores: Tensor | None, mask: Tensor, dense: bool
    ) -> Tensor:
        ctx.save_for_backward(weight, scores, mask)
        ctx.dense = dense
        return torch.where(mask, weight, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        weight, scores, mask = ctx.saved_tensors
        grad_weight = grad_scores = None
        if ctx.needs_input_grad[0]:
            grad_weight = grad if ctx.dense else torch.where(mask, grad, 0.0)
        if ctx.needs_input_grad[1]:
            grad_scores = grad * weight * scores.sign()
        return grad_weight, grad_scores, None, None


@dataclass(frozen=True)
class Change:
    """Masks before and after `MaskedModel.set`; boolean tensors of the weights' shapes, by name."""

    before: Tensors
    after: Tensors

    @property
    def dropped(self) -> dict[str, Tensor]:
        """Weights that were kept and are pruned now."""
        return {name: mask & ~self.after[name] for name, mask in self.before.items()}

    @property
    def grown(self) -> dict[str, Tensor]:
        """Weights that were pruned and are kept now."""
        return {name: self.after[name] & ~mask for name, mask in self.before.items()}


def attach(
    model: nn.Module,
    *,
    include: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
    structure: str | Mapping[str, Any] | Structure = "weight",
) -> MaskedModel:
    """Put a mask of ones on every prunable weight of ``model``, in place.

    All is checked before anything is changed.

    Args:
        model: any network with Conv2d or Linear layers that are not masked yet.
        include: layers to mask, by name or pattern (``layer4.*``); all of them if not said.
        exclude: layers that stay dense all the same (``head``).
        structure: what one entry of a mask covers: a name, ``{"name": "n_m", "n": 2, "m": 4}`` or
            the part itself. Layers that it cannot cover stay dense too.

    Raises:
        UsageError: nothing in ``model`` can be masked, a weight of it cannot be masked exactly, or
            a pattern fits no layer. ``model`` is as it was then.
    """
    if isinstance(structure, str):
        structure = {"name": structure}
    if isinstance(structure, Mapping):
        options = dict(structure)
        structure = create(options.pop("name", ""), **options)
    found = prunable_weights(model, exclude, include=include)
    dense = structure.stays_dense({one.name: one.weight for one in found}, ends(model))
    chosen = [one for one in found if one.name not in dense]
    if not chosen:
        raise UsageError(
            f"structure '{structure.registered_name}' leaves every layer of "
            f"{type(model).__name__} dense: {', '.join(one.name for one in found)}. Choose another."
        )
    masked = MaskedModel(model, chosen, structure=structure)
    masked.dense = tuple(one.name for one in found if one.name in dense)
    return masked


class MaskedModel:
    """The masks of one network; made by `attach`. It holds masks and decides nothing.

    Everything is keyed by the weight's name, ``conv1.weight``; a weight that layers share stands
    once, under the name of the first.

    Args:
        model: a network on whose layers parametrizations are put.
        prunables: the weights to mask; none for a network that stays dense.
        structure: what one entry of a mask covers.

    Attributes:
        model: the network itself, which computes with its masked weights.
        structure: as above.
        weights: the tensors behind the masks, pruned entries included.
        initial: the masks of the first `set`, which turnover is counted against; None before it.
        dense: layers that could be masked but for the structure, and stay dense, in the network's
            order.
    """

    def __init__(
        self, model: nn.Module, prunables: Sequence[Prunable], *, structure: Structure
    ) -> None:
        self.model, self.structure = model, structure
        self.weights = {f"{one.name}.weight".removeprefix("."): one.weight for one in prunables}
        self.initial: dict[str, Tensor] | None = None
        self.dense: tuple[str, ...] = ()
        self._layers: dict[str, list[nn.Module]] = {}
        self._masks: dict[str, Mask] = {}
        self._open = 0
        for name, one in zip(self.weights, prunables, strict=True):
            self._layers[name] = list(one.layers.values())
            self._masks[name] = Mask(one.weight)
            for layer in self._layers[name]:
                parametrize.register_parametrization(
                    layer, "weight", self._masks[name], unsafe=True
                )

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks as they are; boolean, of the weights' shapes. `set` changes them."""
        return {name: mask.mask for name, mask in self._masks.items()}

    @property
    def layers(self) -> dict[str, tuple[nn.Module, ...]]:
        """The layers that compute with each weight, by its name; several where they share it."""
        return {name: tuple(layers) for name, layers in self._layers.items()}

    @property
    def scores(self) -> dict[str, nn.Parameter]:
        """The scores, of the weights' shapes; empty if there are none."""
        return {name: m.scores for name, m in self._masks.items() if m.scores is not None}

    def set(self, masks: Tensors) -> Change:
        """Change masks; no weight is touched, and what is pruned keeps its value behind the mask.

        Args:
            masks: boolean, of the weights' shapes; those of other weights stay.

        Raises:
            UsageError: a tensor is not boolean or not of its weight's shape, or there is no such
                weight; no mask is changed then.
            RuntimeError: inside `cached`, whose weights would go on with the masks before.
        """
        if self._open:
            raise RuntimeError("masks cannot change inside cached(): leave it first")
        self._check("mask", masks)
        before = {name: self._masks[name].mask for name in masks}
        for name, mask in masks.items():  # copied: the caller's stays his own
            self._masks[name].mask = torch.empty_like(before[name]).copy_(mask)
        if self.initial is None:
            self.initial = {name: mask.clone() for name, mask in self.masks.items()}
        return Change(before, {name: self._masks[name].mask for name in masks})

    def add_scores(self, values: Tensors | None = None) -> None:
        """Give each weight a score that gradients reach, beside what it has already.

        Args:
            values: real, of the weights' shapes; of those that are not named scores stay as they
                are, and new ones are zeros. The tensors of scores that are there stay the same
                ones, so that optimizers keep theirs.

        Raises:
            UsageError: a tensor is not of its weight's shape, or there is no such weight; nothing
                is changed then.
        """
        values = values or {}
        self._check("scores", values)
        for name, mask in self._masks.items():
            if mask.scores is None:
                mask.scores = nn.Parameter(torch.zeros_like(self.weights[name]))
            if name in values:
                with torch.no_grad():
                    mask.scores.copy_(values[name])

    def drop_scores(self) -> None:
        """Forget the scores; masks stay as they are."""
        for mask in self._masks.values():
            mask.scores = None

    def reparametrize(self, make: Callable[[str, Tensor], nn.Module]) -> None:
        """Put a trainable module in front of each mask: the mask sees ``module(weight)``.

        Done once; a second call changes nothing. It is baked in with the mask.

        Args:
            make: from a weight's name and the weight to a module that maps it to its own shape.
        """
        for name, layers in self._layers.items():
            if len(layers[0].parametrizations["weight"]) == 1:  # type: ignore[index]
                module = make(name, self.weights[name])
                for layer in layers:
                    layer.parametrizations["weight"].insert(0, module)  # type: ignore[index,union-attr]

    def unmasked(self) -> dict[str, Tensor]:
        """The weights that the masks see, with their graph."""
        seen: dict[str, Tensor] = {}
        for name, layers in self._layers.items():
            *before, _ = layers[0].parametrizations["weight"]  # type: ignore[index]
            seen[name] = self.weights[name]
            for module in before:
                seen[name] = module(seen[name])
        return seen

    @contextmanager
    def cached(self) -> Iterator[None]:
        """Compute each masked weight once for everything inside, backward included.

        The weights are touched here, with gradients enabled if they are outside: the cache keeps
        what is computed first, and a `no_grad` forward inside an attack would otherwise cache
        weights without a graph. Nothing is selected, and masks cannot change inside.
        """
        self._open += 1
        try:
            with parametrize.cached():
                for layers in self._layers.values():
                    for layer in layers:
                        _ = layer.weight
                yield
        finally:
            self._open -= 1

    @contextmanager
    def dense_gradients(self) -> Iterator[None]:
        """Give pruned weights, too, the gradients of the weights that the network sees."""
        for mask in self._masks.values():
            mask.dense = True
        try:
            yield
        finally:
            for mask in self._masks.values():
                mask.dense = False

    def weight_parameters(self) -> list[nn.Parameter]:
        """Every parameter of the network but the scores."""
        scores = {id(score) for score in self.scores.values()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in scores]

    @torch.no_grad()
    def load(self, checkpoint: Tensors) -> None:
        """Take over a dense network's whole state, norms and running statistics too.

        Masks and scores stay.

        Args:
            checkpoint: the ``state_dict()`` of this network without masks.

        Raises:
            UsageError: it is of another network. Nothing is changed then.
        """
        own: dict[str, Tensor] = dict(self.model.state_dict(keep_vars=True))
        masked = {id(layer) for layers in self._layers.values() for layer in layers}
        for place, module in self.model.named_modules(remove_duplicate=False):
            if (
                id(module) in masked
            ):  # its weight under its plain name, in place of all it is made of
                prefix = f"{place}.".removeprefix(".")
                here = f"{prefix}parametrizations.weight."
                weight = own[f"{here}original"]
                own = {name: tensor for name, tensor in own.items() if not name.startswith(here)}
                own[f"{prefix}weight"] = weight
        odd = own.keys() ^ checkpoint.keys()
        odd |= {n for n in own.keys() - odd if own[n].shape != checkpoint[n].shape}
        if odd:
            raise UsageError(f"the checkpoint is of another network: {', '.join(sorted(odd)[:5])}.")
        for name, tensor in checkpoint.items():
            own[name].copy_(tensor)

    @property
    def kept(self) -> int:
        """Number of maskable weights that the masks keep."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def prunable(self) -> int:
        """Number of maskable weights."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def turnover(self) -> float:
        """Share of the kept positions that the first masks did not keep, in [0, 1]."""
        if self.initial is None or not self.kept:
            return 0.0
        # the network may have been moved to another device since the first masks
        first = {name: self.initial[name].to(mask.device) for name, mask in self.masks.items()}
        fresh = sum(int((mask & ~first[name]).sum()) for name, mask in self.masks.items())
        return fresh / self.kept

    def report(self) -> list[LayerReport]:
        """Report what is kept of each layer, in the network's order."""
        return [
            LayerReport(_layer(name), tuple(mask.shape), int(mask.sum()), mask.numel())
            for name, mask in self.masks.items()
        ]

    def __repr__(self) -> str:
        """A table of the layers: weights kept, and scores where there are any."""
        kind, structure = type(self.model).__name__, self.structure.registered_name
        title = f"masks of {kind}, structure {structure}"
        if self.initial is not None:
            title += f", turnover {self.turnover:.1%}"
        scores = {_layer(name): score.detach() for name, score in self.scores.items()}
        table = as_text(*layer_table(self.report(), scores), words=2)
        dense = f"\nleft dense by the structure: {', '.join(self.dense)}" if self.dense else ""
        return f"{title}\n{table}{dense}"

    def _check(self, kind: str, given: Tensors) -> None:
        """Refuse what is not of the name, the shape and the type of a weight's mask or scores."""
        expected = "booleans" if kind == "mask" else "real numbers"
        for name, tensor in given.items():
            weight = self.weights.get(name)
            if weight is None:
                hint = nearest(name, self.weights, key=_layer)
                raise UsageError(f"{kind}: no masked weight is '{name}'.{hint}")
            if not isinstance(tensor, Tensor):
                raise UsageError(f"{kind} of '{name}': expected a tensor, got {tensor!r:.60}.")
            fits = tensor.dtype == torch.bool if kind == "mask" else tensor.is_floating_point()
            if not fits or tensor.shape != weight.shape:
                remedy = "" if fits else _remedy(kind, tensor)
                raise UsageError(
                    f"{kind} of '{name}': expected {expected} of shape {tuple(weight.shape)}; got "
                    f"{tensor.dtype} of shape {tuple(tensor.shape)}.{remedy}"
                )

    def bake(self) -> dict[str, Tensor]:
        """Write the masked weights into the plain network and remove the parametrizations.

        Returns:
            The masks, by name.
        """
        masks = self.masks
        # layers that share a weight write it one after the other, each what all have computed with
        with torch.no_grad(), self.cached():
            for layers in self._layers.values():
                for layer in layers:
                    drop_parametrizations(layer)
                    layer.weight.requires_grad_(True)
        return masks


def _remedy(kind: str, tensor: Tensor) -> str:
    """What to write in place of a tensor of the wrong type: masks of others are zeros and ones."""
    if kind == "scores":
        return " Write .float()."
    if bool(((tensor == 0) | (tensor == 1)).all()):
        return " Write mask.bool()."
    return " A method's keep(masked, importance), or rp.masking.select, makes masks of sizes."


def _layer(weight: str) -> str:
    """The name of the layer that a weight is of."""
    return weight.removesuffix("weight").removesuffix(".")
