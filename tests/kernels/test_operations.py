"""Shapes of values, and what does not fit together."""

from dataclasses import replace

import numpy as np
import pytest

from robustprune.kernels.operations import Operation, shapes

from .networks import SHAPE, residual, window
from .reference import ReferenceProgram


def test_shapes_are_those_of_torch():
    operations = residual()
    found = shapes(operations, SHAPE)
    assert found[0] == SHAPE
    for number in range(1, len(operations) + 1):
        program = ReferenceProgram(operations[:number], SHAPE)
        assert program(np.zeros((2, *SHAPE), np.float32)).shape == (2, *found[number])


@pytest.mark.parametrize(
    ("kernel", "changes"),
    [
        ((3, 2), {"stride": [2, 3], "padding": [0, 1]}),
        ((1, 1), {"stride": [2, 2], "padding": [0, 0]}),
        ((3, 3), {"dilation": [2, 3], "padding": [2, 1]}),
        ((8, 8), {"padding": [0, 0]}),
    ],
)
def test_windows_are_those_of_torch(kernel, changes):
    arrays = {"weight": np.ones((2, 3, *kernel), np.float32), "bias": np.zeros(2, np.float32)}
    operation = Operation("convolution", (0,), window(**changes), arrays)
    program = ReferenceProgram([operation], SHAPE)
    found = shapes([operation], SHAPE)[-1]
    assert program(np.zeros((1, *SHAPE), np.float32)).shape[1:] == found


def array(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


WRONG = [
    (0, {"kind": "convolve"}, "unknown kind; there are convolution, linear"),
    (0, {"kind": ["relu"]}, "unknown kind"),
    (0, {"inputs": (1,)}, "inputs are not values before it"),
    (0, {"inputs": (-1,)}, "inputs are not values before it"),
    (0, {"inputs": (True,)}, "inputs are not values before it"),
    (0, {"inputs": (0, 0)}, "2 inputs, not 1"),
    (0, {"options": {}}, "options are none, not dilation, groups, padding, stride"),
    (0, {"options": window(stride=[0, 1])}, r"stride is \[0, 1\]"),
    (0, {"options": window(stride=[1])}, r"stride is \[1\]"),
    (0, {"options": window(stride=1)}, "stride is 1"),
    (0, {"options": window(stride=[1.0, 1])}, "stride is"),
    (0, {"options": window(padding=[-1, 0])}, "padding is"),
    (0, {"options": window(padding=[10**9, 0])}, "padding is"),
    (0, {"options": window(groups=2)}, "in 2 groups do not take"),
    (0, {"options": window(groups=True)}, "groups is True"),
    (0, {"options": window(dilation=[9, 1])}, "does not fit into"),
    (0, {"arrays": {"weight": array(8, 3, 3, 3)}}, "arrays are weight, not bias, weight"),
    (0, {"arrays": {"weight": array(8, 3, 3, 3), "bias": array(7)}}, r"\(7,\), not \(8,\)"),
    (0, {"arrays": {"weight": array(8, 3, 3), "bias": array(8)}}, "do not take"),
    (0, {"arrays": {"weight": array(8, 3, 0, 3), "bias": array(8)}}, "does not fit into"),
    (0, {"arrays": {"weight": array(0, 3, 3, 3), "bias": array(0)}}, "an array has shape"),
    (3, {"arrays": {"scale": array(8), "shift": array(9)}}, r"\(9,\), not \(8,\)"),
    (4, {"inputs": (4, 0)}, "it adds"),
    (5, {"inputs": (0,), "kind": "flatten"}, "options are kernel, padding, stride, not none"),
    (6, {"options": {**window(), "count_include_pad": 1}}, "options are"),
    (7, {"kind": "linear", "options": {}}, "arrays are none, not bias, weight"),
    (8, {"inputs": (7,)}, "do not take"),
]


@pytest.mark.parametrize(("number", "changes", "message"), WRONG)
def test_what_does_not_fit_is_named(number, changes, message):
    operations = residual()
    operations[number] = replace(operations[number], **changes)
    with pytest.raises(ValueError, match=rf"operation {number} \(.*{message}"):
        shapes(operations, SHAPE)


def test_padding_of_a_pool_is_at_most_half_its_kernel():
    options = {"kernel": [2, 2], "stride": [1, 1], "padding": [2, 0]}
    with pytest.raises(ValueError, match="wider than half its kernel"):
        shapes([Operation("max_pool", (0,), options)], SHAPE)


@pytest.mark.parametrize("shape", [(), (3, 8), (3, 0, 8), (3, 8, 8.0), (1, 3, 8, 8)])
def test_images_have_one_dimension_or_three(shape):
    with pytest.raises(ValueError, match="neither"):
        shapes(residual(), shape)


def test_there_are_operations():
    with pytest.raises(ValueError, match="no operations"):
        shapes([], SHAPE)
