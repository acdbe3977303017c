"""Networks whose masks stand still, trained through sparse kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustprune import kernels
from robustprune.errors import UsageError
from robustprune.inference import sparse_with
from robustprune.inference.choices import GAIN
from robustprune.inference.graph import AGREE
from robustprune.inference.recognition import UnknownError, Value, recognised
from robustprune.inference.timing import least_seconds
from robustprune.masking import MaskedModel, prunable_layers
from robustprune.train_mode import eval_mode
from robustprune.unparametrize import plain_copy

MOST = 32
"""Images with which a layer's time is measured, at most."""


class SparseTraining(nn.Module):
    """A network as an objective sees it in a stage whose masks stand still; float32, on the CPU.

    It computes with the network's own weights, and the same to rounding. In train mode each layer
    that gains goes through kernels, with gradients of images and kept weights. In eval mode, where
    attacks are, the network as a whole does if images want gradients, and these alone have any.

    Args:
        model: the network that is trained, parametrizations and all.
        masked: its masks, set already.
        images: an example of the batches to come, ``(n, channels, height, width)``.
        choices: of an earlier one for this network; then nothing is measured.

    Attributes:
        choices: JSON values that say what goes through kernels. Bits follow from them.
    """

    _whole: Any
    _twin: nn.Module
    _layers: dict[str, kernels.Program]

    def __init__(
        self,
        model: nn.Module,
        masked: MaskedModel,
        images: Tensor,
        *,
        choices: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._moved = False  # statistics, since they were taken over
        threads = torch.get_num_threads()
        twin = _filled(model, masked)
        # plain attributes: what is no part of the network's state
        self.__dict__["_twin"] = twin
        self.__dict__["_whole"] = sparse_with(
            kernels.Program, twin, images, threads=threads, tell=warnings.warn,
            choices=None if choices is None else choices["attacks"],
        )  # fmt: skip
        self.__dict__["_layers"] = self._sparse_layers(
            masked, images, threads, None if choices is None else choices["layers"]
        )
        attacks = dict(self._whole.choices)
        if choices is None and not self._agrees(masked, images):
            attacks = {"network": "dense", "reason": "its weights are computed from parameters"}
        if attacks["network"] != "sparse":
            self.__dict__["_whole"] = None
        self.choices = {"attacks": attacks, "layers": sorted(self._layers)}

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over weights and statistics as they are now.

        Called inside of `MaskedModel.cached`, before the network is used after they changed.
        """
        self._moved = False
        if self._whole is None:
            return
        for name, tensor in [*self._twin.named_parameters(), *self._twin.named_buffers()]:
            owner, _, attribute = name.rpartition(".")
            tensor.copy_(getattr(self.model.get_submodule(owner), attribute))
        self._whole.refresh()

    def forward(self, images: Tensor) -> Tensor:
        """The logits, ``(n, classes)``.

        Raises:
            UsageError: while differentiating, in eval mode, by weights and images together.
        """
        of_images_alone = images.requires_grad or not torch.is_grad_enabled()
        if self._whole is not None and not self.training and of_images_alone:
            if self._moved:
                self.refresh()
            logits: Tensor = self._whole(images)
            trained = (one for one in self.model.parameters() if one.requires_grad)
            if logits.requires_grad and (one := next(trained, None)) is not None:
                logits = logits + _ImagesAlone.apply(one)
            return logits
        self._moved = self._moved or self.training
        with self._through_kernels():
            return self.model(images)  # type: ignore[no-any-return]

    @contextmanager
    def _through_kernels(self) -> Iterator[None]:
        changed = [(self.model.get_submodule(name), one) for name, one in self._layers.items()]
        for layer, program in changed:
            layer.forward = partial(_computed, layer, program)
        try:
            yield
        finally:
            for layer, _ in changed:
                del layer.forward

    def _agrees(self, masked: MaskedModel, images: Tensor) -> bool:
        """True if the whole network computes what the model does with its weights as they are."""
        if self._whole.choices["network"] != "sparse":
            return True
        with torch.no_grad(), masked.cached(), eval_mode(self.model):
            self.refresh()
            expected, found = self.model(images[:2]), self._whole(images[:2])
        scale = float(expected.abs().max())
        return bool((expected - found).abs().max() <= AGREE * scale)

    def _sparse_layers(
        self, masked: MaskedModel, images: Tensor, threads: int, chosen: list[str] | None
    ) -> dict[str, kernels.Program]:
        """Programs of the layers that gain, or that were chosen."""
        if kernels.available():
            return {}
        layers, masks = prunable_layers(self.model), masked.masks
        shapes = _input_shapes(self.model, layers, images[:1])
        found = {}
        for name, layer in layers.items():
            mask = masks.get(f"{name}.weight".lstrip("."))
            if mask is None or name not in shapes or (chosen is not None and name not in chosen):
                continue
            try:
                program = _program(layer, mask, shapes[name], threads)
            except (UnknownError, kernels.Unsupported):
                continue
            if chosen is not None or _gains(layer, mask, program, min(len(images), MOST)):
                found[name] = program
        return found


def _filled(model: nn.Module, masked: MaskedModel) -> nn.Module:
    """A plain copy whose weights are not zero where they are kept, and zero elsewhere."""
    twin = plain_copy(model)
    with torch.no_grad():
        for name, mask in masked.masks.items():
            kept = mask.float()
            rows = kept.flatten(1).sum(1).clamp(min=1).view(-1, *[1] * (kept.dim() - 1))
            twin.get_parameter(name).copy_(kept / rows)  # so that no activation overflows
        for module in twin.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.affine:
                    module.weight.fill_(1)
                if module.running_var is not None:
                    module.running_var.fill_(1)
    return twin


def _input_shapes(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor
) -> dict[str, tuple[int, ...]]:
    """Shapes of one image's input, by layer; layers that meet several, or none, are left out."""
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in layers}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name].append(tuple(inputs[0].shape[1:]))

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), eval_mode(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: shapes[0] for name, shapes in seen.items() if len(set(shapes)) == 1}


def _function(layer: nn.Module) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The function that a layer calls with its input, weight and bias, and its options.

    Raises:
        UnknownError: it does something else, as layers that pad by the size of their input do.
    """
    kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    methods = ("forward", "_conv_forward") if kind is nn.Conv2d else ("forward",)
    if any(
        name in vars(layer) or getattr(type(layer), name) is not getattr(kind, name)
        for name in methods
    ):
        raise UnknownError
    if not isinstance(layer, nn.Conv2d):
        return F.linear, {}
    if layer.padding_mode != "zeros":
        raise UnknownError
    names = ("stride", "padding", "dilation", "groups")
    return F.conv2d, {name: getattr(layer, name) for name in names}


def _program(
    layer: nn.Module, mask: Tensor, shape: tuple[int, ...], threads: int
) -> kernels.Program:
    """One layer, with a weight wherever its mask is true."""
    function, options = _function(layer)
    weight, bias = mask.float(), torch.zeros(len(mask))
    empty = torch.empty(1, *shape, device="meta")
    result = tuple(function(empty, weight.to("meta"), None, **options).shape[1:])
    image: Any = Value(None, shape)  # type: ignore[arg-type]
    (operation,) = recognised(function, (image, weight, bias), options, result).operations
    return kernels.Program(
        [replace(operation, inputs=(0,))], shape, threads=threads, few=0, weights=True
    )


def _gains(layer: nn.Module, mask: Tensor, program: kernels.Program, count: int) -> bool:
    """True if a step forth and back is faster through the kernels."""
    function, options = _function(layer)
    images = torch.rand(count, *program.shape, generator=torch.Generator(), requires_grad=True)
    weight = mask.float().requires_grad_()

    def step(output: Tensor) -> None:
        torch.autograd.grad(output.sum(), [images, weight])

    dense, sparse = least_seconds(
        lambda: step(function(images, weight, None, **options)),
        lambda: step(_Layer.apply(images, weight, None, program)),
    )
    return sparse < GAIN * dense


def _computed(layer: nn.Module, program: kernels.Program, x: Tensor) -> Tensor:
    """A layer's output, through kernels if it is what they were made for."""
    if x.dtype != torch.float32 or x.shape[1:] != program.shape or not len(x):
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    output: Tensor = _Layer.apply(x, layer.weight, layer.bias, program)
    return output


class _ImagesAlone(torch.autograd.Function):
    """Zero, which refuses to be differentiated: weights would go without their gradients."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise UsageError(
            "in eval mode, sparse kernels give gradients of images alone, and the objective asks "
            "for those of weights with them. Use compute.sparse: auto, or take the gradients of "
            "images by torch.autograd.grad(…, images)."
        )


class _Layer(torch.autograd.Function):
    """A convolution or a linear layer; pruned weights get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, program: Any) -> Tensor:
        values = torch.zeros(len(weight)) if bias is None else bias.detach()
        program.set_arrays([{"weight": weight.detach().numpy(), "bias": values.numpy()}])
        array = x.detach().contiguous().numpy()
        ctx.program, ctx.tape = program, None
        if not any(ctx.needs_input_grad):
            return torch.from_numpy(program(array))
        output, ctx.tape = program.forward(array)
        return torch.from_numpy(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        inside = ctx.program.backward(ctx.tape, gradient.contiguous().numpy())
        weights = ctx.program.weight_gradients(ctx.tape)[0]
        bias = None
        if ctx.needs_input_grad[2]:
            bias = gradient.flatten(2).sum((0, 2)) if gradient.dim() > 2 else gradient.sum(0)
        return torch.from_numpy(inside), torch.from_numpy(weights), bias, None
