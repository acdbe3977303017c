"""Operations interpreted by torch, for tests: an interface like that of `kernels.Program`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustprune.kernels.operations import Array, Operation


class ReferenceTape(NamedTuple):
    images: Tensor
    output: Tensor


class ReferenceProgram:
    """float32, gradients by autograd; one thread or as many as torch has."""

    def __init__(
        self,
        operations: Sequence[Operation],
        shape: tuple[int, ...],
        *,
        threads: int = 1,
        few: int = 8,
    ) -> None:
        self.operations = list(operations)
        self.shape, self.threads, self.few = tuple(shape), threads, few
        self._run(torch.zeros(1, *shape))  # so that a wrong network is known at once

    def __call__(self, images: Array) -> Array:
        with torch.no_grad():
            return self._run(self._tensor(images)).contiguous().numpy()

    def forward(self, images: Array) -> tuple[Array, ReferenceTape]:
        with torch.enable_grad():
            leaf = self._tensor(images).clone().requires_grad_()
            output = self._run(leaf).contiguous()
        return output.detach().numpy().copy(), ReferenceTape(leaf, output)

    def backward(self, tape: ReferenceTape, gradient: Array) -> Array:
        assert gradient.dtype == np.float32
        assert gradient.shape == tuple(tape.output.shape)
        (found,) = torch.autograd.grad(
            tape.output, tape.images, torch.from_numpy(gradient), retain_graph=True
        )
        return found.contiguous().numpy()

    def set_arrays(self, arrays: Sequence[Mapping[str, Array]]) -> None:
        assert len(arrays) == len(self.operations)
        for old, new in zip(self.operations, arrays, strict=True):
            if "weight" in old.arrays:
                assert np.all(old.arrays["weight"][new["weight"] != 0] != 0)
        pairs = zip(self.operations, arrays, strict=True)
        self.operations = [replace(old, arrays=dict(new)) for old, new in pairs]

    def _tensor(self, images: Array) -> Tensor:
        assert images.dtype == np.float32
        assert images.flags.c_contiguous
        assert images.shape[1:] == self.shape
        return torch.from_numpy(images)

    def _run(self, images: Tensor) -> Tensor:
        values = [images]
        for operation in self.operations:
            assert all(0 <= number < len(values) for number in operation.inputs)
            values.append(interpret(operation, [values[number] for number in operation.inputs]))
        return values[-1]


def interpret(
    operation: Operation, inputs: Sequence[Tensor], arrays: Mapping[str, Tensor] | None = None
) -> Tensor:
    """One operation's value, ``(N, …)``, with these tensors for its arrays if there are any."""
    x, options = inputs[0], operation.options
    assert all(array.dtype == np.float32 for array in operation.arrays.values())
    if arrays is None:
        arrays = {name: torch.from_numpy(array) for name, array in operation.arrays.items()}
    match operation.kind:
        case "convolution":
            assert x.dim() == 4
            sizes = (options["stride"], options["padding"], options["dilation"])
            return F.conv2d(x, arrays["weight"], arrays["bias"], *sizes, options["groups"])
        case "linear":
            assert x.dim() == 2
            return F.linear(x, arrays["weight"], arrays["bias"])
        case "affine":
            ones = (1,) * (x.dim() - 2)
            return x * arrays["scale"].view(-1, *ones) + arrays["shift"].view(-1, *ones)
        case "relu":
            return F.relu(x)
        case "add":
            assert x.shape == inputs[1].shape
            return x + inputs[1]
        case "max_pool":
            return F.max_pool2d(x, options["kernel"], options["stride"], options["padding"])
        case "average_pool":
            return F.avg_pool2d(
                x,
                options["kernel"],
                options["stride"],
                options["padding"],
                count_include_pad=options["count_include_pad"],
            )
        case "flatten":
            assert x.dim() == 4
            return x.flatten(1)
    raise AssertionError(operation.kind)
