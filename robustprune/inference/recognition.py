"""Which of the kernels' operations a call of torch's is.

What is not recognised stays torch's, so every function here asks for all that it rests on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.prune import BasePruningMethod

from robustprune.kernels.operations import Array, Operation

Arrays = Mapping[str, Array]
"""Arrays of an operation, by name."""


class KnownOperation(nn.Module):
    """An operation as torch computes it, ``(n, …)`` to ``(n, …)``, in float32.

    Args:
        operation: one that the kernels know; its ``inputs`` are not used.
        layer: the layer's name in the network, or that of the call; several may share one.
        renew: computes the arrays anew from the network's tensors; if absent, they never change.
    """

    def __init__(
        self, operation: Operation, layer: str, renew: Callable[[], Arrays] | None = None
    ) -> None:
        super().__init__()
        self.operation, self.layer = operation, layer
        self.renew: Callable[[], Arrays] = renew or (lambda: operation.arrays)
        for name, array in operation.arrays.items():
            self.register_buffer(name, torch.from_numpy(array))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute the operation; ``other`` is the second input of ``add``."""
        tensors: dict[str, Tensor] = dict(self.named_buffers())
        options = self.operation.options
        match self.operation.kind:
            case "convolution":
                return F.conv2d(x, tensors["weight"], tensors["bias"], **options)
            case "linear":
                return F.linear(x, tensors["weight"], tensors["bias"])
            case "affine":
                ones = (1,) * (x.dim() - 2)
                scale, shift = (tensors[name].view(-1, *ones) for name in ("scale", "shift"))
                return torch.addcmul(shift, x, scale)
            case "relu":
                return F.relu(x)
            case "add":
                assert other is not None
                return x + other
            case "max_pool":
                return F.max_pool2d(x, options["kernel"], options["stride"], options["padding"])
            case "average_pool":
                sizes = {name: options[name] for name in ("stride", "padding", "count_include_pad")}
                return F.avg_pool2d(x, options["kernel"], **sizes)
            case "flatten":
                return x.flatten(1)
        raise ValueError(f"unknown operation '{self.operation.kind}'")

    def is_layer(self) -> bool:
        """True if it has weights that may be pruned."""
        return "weight" in self.operation.arrays


class Value(NamedTuple):
    """What a node makes of the images, float32.

    Attributes:
        node: of the network's graph.
        shape: of one image's, without the axis of the images; of one or three axes.
    """

    node: fx.Node
    shape: tuple[int, ...]


class Found(NamedTuple):
    """What a call is.

    Attributes:
        inputs: what it reads.
        operations: one after the other; none if it gives its input back.
    """

    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]


class UnknownError(Exception):
    """The kernels do not know what is called."""


def recognised(
    target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: tuple[int, ...]
) -> Found:
    """Find the operations that a call is.

    Args:
        target: a module, a function, or the name of a tensor's method.
        args: of the call: `Value` where they depend on the images, constant tensors, or anything.
        kwargs: likewise.
        result: shape of what is computed of one image.

    Raises:
        UnknownError: it is none, or not surely one.
    """
    try:
        if isinstance(target, nn.Module):
            _need(not kwargs and len(args) == 1 and not _has_hooks(target))
            found = _MODULES[type(target)](target, *args)
        elif isinstance(target, str):
            found = _HANDLERS[target.removesuffix("_")](*args, **kwargs)
        else:
            found = _FUNCTIONS[target](*args, **kwargs)
    except (
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # another function, or other arguments than here
        raise UnknownError from error
    _need(reduce(shape_after, found.operations, found.inputs[0].shape) == result)
    return found


def changes_its_input(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """True if a call that may be `recognised` writes its result over its first argument."""
    if isinstance(target, nn.Module):
        return bool(getattr(target, "inplace", False))
    name = target if isinstance(target, str) else _name(target)
    given = kwargs.get("inplace", len(args) > 1 and args[1] is True and target is F.relu)
    return bool(given) or name.endswith("_") or name == "iadd"


def _name(function: Any) -> str:
    return str(getattr(function, "_opname", None) or getattr(function, "__name__", ""))


def _need(holds: bool) -> None:
    if not holds:
        raise UnknownError


def _has_hooks(module: nn.Module) -> bool:
    """True if a call does more than `forward`; torch's pruning has computed the weight already."""
    before = module._forward_pre_hooks.values()
    pruned = all(isinstance(hook, BasePruningMethod) for hook in before)
    return bool(not pruned or module._forward_hooks or module._backward_hooks)


def _image(x: Any) -> Value:
    _need(isinstance(x, Value) and len(x.shape) == 3)
    value: Value = x
    return value


def _value(x: Any) -> Value:
    _need(isinstance(x, Value) and len(x.shape) in (1, 3))
    value: Value = x
    return value


def _pair(size: Any) -> list[int]:
    sizes = list(size) if isinstance(size, list | tuple) else [size, size]
    sizes = sizes * 2 if len(sizes) == 1 else sizes
    _need(len(sizes) == 2 and all(type(one) is int for one in sizes))
    return sizes


def _array(tensor: Any) -> Array:
    _need(isinstance(tensor, Tensor) and tensor.dtype == torch.float32)
    array: Array = tensor.detach().contiguous().numpy()
    return array


def _one(
    x: Value, kind: str, options: Mapping[str, Any] = {}, arrays: Mapping[str, Array] = {}
) -> Found:
    return Found((x,), (Operation(kind, (), options, arrays),))


def _weights(weight: Any, bias: Any) -> dict[str, Array]:
    array = _array(weight)
    zeros = np.zeros(len(array), np.float32)
    return {"weight": array, "bias": zeros if bias is None else _array(bias)}


def _convolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Found:
    arrays = _weights(weight, bias)
    _need(arrays["weight"].ndim == 4)
    if isinstance(padding, str):
        extents = zip(_pair(dilation), arrays["weight"].shape[2:], strict=True)
        around = [gap * (size - 1) for gap, size in extents]
        _need(padding == "valid" or not any(total % 2 for total in around))
        padding = [0, 0] if padding == "valid" else [total // 2 for total in around]
    sizes = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation)}
    _need(type(groups) is int)
    return _one(_image(x), "convolution", {**sizes, "groups": groups}, arrays)


def _linear(x: Any, weight: Any, bias: Any = None) -> Found:
    value = _value(x)
    _need(len(value.shape) == 1)
    return _one(value, "linear", {}, _weights(weight, bias))


def _batch_norm(
    x: Any,
    mean: Any,
    variance: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Found:
    _need(training is False)
    spread = np.sqrt(_array(variance).astype(np.float64) + eps)
    scale = (1 if weight is None else _array(weight)) / spread
    shift = (0 if bias is None else _array(bias)) - _array(mean) * scale
    return _affine(_value(x), scale, shift)


def _aten_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *rest: Any
) -> Found:
    return _batch_norm(x, mean, variance, weight, bias, training, *rest[:2])


def _affine(x: Value, scale: Any, shift: Any) -> Found:
    given = {"scale": scale, "shift": shift}
    ones = np.ones(x.shape[0])
    arrays = {name: (ones * one).astype(np.float32) for name, one in given.items()}
    return _one(x, "affine", {}, arrays)


def _by_channel(constant: Any, x: Value) -> Any:
    """A number, or one a channel, in float64."""
    if isinstance(constant, int | float):
        return np.float64(constant)
    values = _array(constant).astype(np.float64)
    _need(values.ndim <= 1 + len(x.shape))
    values = values.reshape((1,) * (1 + len(x.shape) - values.ndim) + values.shape)
    _need(values.size == values.shape[1] and values.size in (1, x.shape[0]))
    return values.ravel()


def _add(x: Any, y: Any, *, alpha: Any = 1) -> Found:
    _need(alpha == 1)
    if isinstance(x, Value) and isinstance(y, Value):
        _need(x.shape == y.shape and x.node is not y.node)
        return Found((_value(x), _value(y)), (Operation("add", ()),))
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    return _affine(_value(value), 1, _by_channel(constant, _value(value)))


def _subtract(x: Any, y: Any, *, alpha: Any = 1) -> Found:
    _need(alpha == 1)
    if isinstance(x, Value):
        return _affine(_value(x), 1, -_by_channel(y, _value(x)))
    return _affine(_value(y), -1, _by_channel(x, _value(y)))


def _multiply(x: Any, y: Any) -> Found:
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    return _affine(_value(value), _by_channel(constant, _value(value)), 0)


def _divide(x: Any, y: Any, *, rounding_mode: Any = None) -> Found:
    divisor = _by_channel(y, _value(x))
    _need(rounding_mode is None and bool(np.all(divisor != 0)))
    return _affine(x, 1 / divisor, 0)


def _relu(x: Any, inplace: bool = False) -> Found:
    return _one(_value(x), "relu")


def _same(x: Any, *_: Any, **__: Any) -> Found:
    return Found((_value(x),), ())


def _dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Found:
    _need(training is False)
    return _same(x)


def _max_pool(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Found:
    # where rounding up gives the same size, as is checked of each result, it is the same
    _need(_pair(dilation) == [1, 1] and return_indices is False)
    return _one(_image(x), "max_pool", _pooling(kernel_size, stride, padding))


def _average_pool(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Found:
    _need(divisor_override is None and isinstance(count_include_pad, bool))
    options = {"count_include_pad": count_include_pad}
    return _one(_image(x), "average_pool", _pooling(kernel_size, stride, padding) | options)


def _pooling(kernel: Any, stride: Any, padding: Any) -> dict[str, list[int]]:
    stride = kernel if stride is None or stride == [] else stride
    return {"kernel": _pair(kernel), "stride": _pair(stride), "padding": _pair(padding)}


def _adaptive(pool: Callable[..., Found]) -> Callable[..., Found]:
    def found(x: Any, output_size: Any, return_indices: bool = False) -> Found:
        sizes = _image(x).shape[1:]
        wanted = output_size if isinstance(output_size, list | tuple) else [output_size] * 2
        wanted = _pair(
            [old if new is None else new for old, new in zip(sizes, wanted, strict=True)]
        )
        fits = all(new and old % new == 0 for old, new in zip(sizes, wanted, strict=True))
        _need(fits and return_indices is False)
        if list(sizes) == wanted:
            return _same(x)
        return pool(x, [old // new for old, new in zip(sizes, wanted, strict=True)])

    return found


def _mean(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Found:
    value = _image(x)
    axes = [axis % 4 for axis in dim] if isinstance(dim, list | tuple) else []
    _need(sorted(axes) == [2, 3] and dtype is None)
    pooled = _average_pool(value, list(value.shape[1:]))
    flat = () if keepdim else (Operation("flatten", ()),)
    return Found((value,), pooled.operations + flat)


def _reshape(x: Any, *_: Any, **__: Any) -> Found:
    """A change of shape by which each image keeps its numbers, in their order: by its result."""
    return _same(x) if len(_value(x).shape) == 1 else _one(x, "flatten")


def shape_after(shape: tuple[int, ...], operation: Operation) -> tuple[int, ...]:
    """Shape of an operation's result for one image, from that of its (first) input."""
    options, arrays = operation.options, operation.arrays
    if operation.kind == "flatten":
        return (prod(shape),)
    if operation.kind == "linear":
        return arrays["bias"].shape
    if operation.kind != "convolution" and "kernel" not in options:
        return shape
    weight = arrays.get("weight")
    kernel = options["kernel"] if weight is None else weight.shape[2:]
    gaps = options.get("dilation", [1, 1])
    sizes = zip(shape[1:], kernel, options["stride"], options["padding"], gaps, strict=True)
    plane = ((n + 2 * p - g * (k - 1) - 1) // s + 1 for n, k, s, p, g in sizes)
    return (shape[0] if weight is None else len(weight), *plane)


_HANDLERS: dict[str, Callable[..., Found]] = {
    "conv2d": _convolution,
    "linear": _linear,
    "relu": _relu,
    "add": _add,
    "iadd": _add,
    "sub": _subtract,
    "mul": _multiply,
    "div": _divide,
    "truediv": _divide,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive(_average_pool),
    "adaptive_max_pool2d": _adaptive(_max_pool),
    "mean": _mean,
    "flatten": _reshape,
    "view": _reshape,
    "reshape": _reshape,
    "contiguous": _same,
    "dropout": _dropout,
    "alpha_dropout": _dropout,
    "feature_dropout": _dropout,
}
"""By the name that torch has for the function; that of the method is the same."""


def _functions() -> dict[Any, Callable[..., Found]]:
    """The functions of torch that have these names: as tracing and as exporting gives them."""
    found: dict[Any, Callable[..., Found]] = {F.batch_norm: _batch_norm}
    found |= {F.dropout2d: _dropout, torch.ops.aten.batch_norm.default: _aten_batch_norm}
    for name, handler in _HANDLERS.items():
        for home in (operator, torch, F, torch._C._nn):
            for spelt in (name, f"{name}_"):
                if function := getattr(home, spelt, None):
                    found[function] = handler
        for spelt in (name, f"{name}_"):
            packet = getattr(torch.ops.aten, spelt, None)
            for overload in packet.overloads() if packet is not None else ():
                found[getattr(packet, overload)] = handler
    return found


_FUNCTIONS = _functions()


def _convolution_layer(layer: nn.Conv2d, x: Any) -> Found:
    _need(layer.padding_mode == "zeros")
    sizes = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _convolution(x, layer.weight, layer.bias, *sizes)


def _norm_layer(norm: nn.BatchNorm2d, x: Any) -> Found:
    _need(not norm.training)
    statistics = (norm.running_mean, norm.running_var)
    return _batch_norm(x, *statistics, norm.weight, norm.bias, eps=norm.eps)


def _flatten_layer(layer: nn.Flatten, x: Any) -> Found:
    return _reshape(x)


_MODULES: dict[type[nn.Module], Callable[..., Found]] = {
    nn.Conv2d: _convolution_layer,
    nn.Linear: lambda layer, x: _linear(x, layer.weight, layer.bias),
    nn.BatchNorm1d: _norm_layer,
    nn.BatchNorm2d: _norm_layer,
    nn.SyncBatchNorm: _norm_layer,
    nn.ReLU: lambda layer, x: _relu(x),
    nn.Identity: lambda layer, x: _same(x),
    nn.Flatten: _flatten_layer,
    nn.MaxPool2d: lambda pool, x: _max_pool(
        x,
        pool.kernel_size,
        pool.stride,
        pool.padding,
        pool.dilation,
        return_indices=pool.return_indices,
    ),
    nn.AvgPool2d: lambda pool, x: _average_pool(
        x,
        pool.kernel_size,
        pool.stride,
        pool.padding,
        count_include_pad=pool.count_include_pad,
        divisor_override=pool.divisor_override,
    ),
    nn.AdaptiveAvgPool2d: lambda pool, x: _adaptive(_average_pool)(x, pool.output_size),
    nn.AdaptiveMaxPool2d: lambda pool, x: _adaptive(_max_pool)(
        x, pool.output_size, pool.return_indices
    ),
}
