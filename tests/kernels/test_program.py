"""Programs agree with torch, on any shape, and touch no memory but their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

from robustprune.kernels import Operation, Program, Unsupported, images, jit, pixels
from robustprune.kernels.operations import Array, shapes
from tests.kernels.reference import ReferenceProgram, interpret

SHAPE = (3, 8, 8)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def convolution(
    x: int, outputs: int, inputs: int, kernel: Sequence[int] = (3, 3), *, density: float = 0.4,
    stride: Sequence[int] = (1, 1), padding: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1), groups: int = 1, seed: int = 0,
) -> Operation:  # fmt: skip
    weight = normal(outputs, inputs // groups, *kernel, seed=seed)
    weight *= np.random.default_rng(seed + 1).random(weight.shape) < density
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    arrays = {"weight": weight, "bias": normal(outputs, seed=seed + 2)}
    return Operation("convolution", (x,), options, arrays)


def linear(x: int, outputs: int, inputs: int) -> Operation:
    weight = normal(outputs, inputs, seed=7)
    weight[np.abs(weight) < 1] = 0
    return Operation("linear", (x,), {}, {"weight": weight, "bias": normal(outputs)})


def pool(x: int, kind: str, kernel: int, stride: int, padding: int = 0) -> Operation:
    pairs = {"kernel": kernel, "stride": stride, "padding": padding}
    options: dict[str, Any] = {name: [size, size] for name, size in pairs.items()}
    if kind == "average_pool":
        options["count_include_pad"] = True
    return Operation(kind, (x,), options)


def affine(x: int, channels: int) -> Operation:
    arrays = {"scale": normal(channels, seed=3), "shift": normal(channels, seed=4)}
    return Operation("affine", (x,), {}, arrays)


def simple(kind: str, *inputs: int) -> Operation:
    return Operation(kind, inputs)


NETWORKS: dict[str, list[Operation]] = {
    "convolution": [convolution(0, 5, 3)],
    "stride": [convolution(0, 5, 3, stride=(2, 2))],
    "stride_of_one_tap": [convolution(0, 5, 3, (1, 1), stride=(2, 2), padding=(0, 0))],
    "groups": [convolution(0, 6, 3, groups=3, dilation=(2, 2), padding=(2, 2))],
    "relu": [simple("relu", 0), affine(1, 3)],
    "two_readers_before_relu": [convolution(0, 3, 3), simple("relu", 1), simple("add", 1, 2)],
    "pool": [convolution(0, 5, 3), simple("relu", 1), pool(2, "max_pool", 2, 2)],
    "pool_of_negatives": [convolution(0, 5, 3), pool(1, "max_pool", 2, 2)],
    "pool_overlapping": [convolution(0, 5, 3), simple("relu", 1), pool(2, "max_pool", 3, 2, 1)],
    "pool_by_three": [pool(0, "max_pool", 3, 3)],
    "average": [pool(0, "average_pool", 3, 2, 1), simple("relu", 1)],
    "residual": [
        convolution(0, 3, 3), simple("relu", 1), convolution(2, 3, 3, seed=5), simple("add", 3, 0),
        simple("relu", 4), affine(5, 3), simple("relu", 6),
    ],
    "downsample": [
        convolution(0, 4, 3, stride=(2, 2)), simple("relu", 1), convolution(2, 4, 4, seed=5),
        convolution(0, 4, 3, (1, 1), stride=(2, 2), padding=(0, 0)), simple("add", 3, 4),
        simple("relu", 5),
    ],
    "sum_with_itself": [convolution(0, 3, 3), simple("add", 1, 1)],
    "head": [
        convolution(0, 6, 3), simple("relu", 1), pool(2, "average_pool", 4, 4),
        simple("flatten", 3),
        linear(4, 7, 24), simple("relu", 5), linear(6, 5, 7),
    ],
    "one_pixel": [
        pool(0, "average_pool", 8, 8), convolution(1, 4, 3, (1, 1), padding=(0, 0)),
        simple("relu", 2), convolution(3, 3, 4, (3, 3)), simple("add", 4, 1), simple("flatten", 5),
    ],
    "blocks_of_channels": [
        convolution(0, 40, 3, density=1), simple("relu", 1), convolution(2, 9, 40, density=0.9),
    ],
    "ends_in_relu": [convolution(0, 4, 3), simple("relu", 1)],
    "stride_leaves_one_pixel": [
        pool(0, "average_pool", 4, 4), convolution(1, 4, 3, stride=(2, 2), padding=(2, 2)),
    ],
    "output_read_by_what_is_not_needed": [
        convolution(0, 4, 3), convolution(1, 5, 4), simple("flatten", 1),
    ],
}  # fmt: skip


def check(operations: list[Operation], shape: tuple[int, ...], counts: Sequence[int]) -> None:
    """Outputs to 1e-5 of their scale, gradients of images and kept weights to 1e-4."""
    reference, program = (
        ReferenceProgram(operations, shape),
        Program(operations, shape, weights=True),
    )
    for count in counts:
        images = normal(count, *shape, seed=count)
        expected = reference(images)
        assert program.output_shape == expected.shape[1:]
        close(program(images), expected, 1e-5)
        output, tape = program.forward(images)
        close(output, expected, 1e-5)
        gradient = normal(*expected.shape, seed=9)
        inside, weights = gradients(operations, images, gradient)
        close(program.backward(tape, gradient), inside, 1e-4)
        found = program.weight_gradients(tape)
        assert found.keys() == weights.keys()
        for number, array in weights.items():
            close(found[number], array, 1e-4)


def close(found: Array, expected: Array, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    scale = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def gradients(
    operations: list[Operation], images: Array, gradient: Array
) -> tuple[Array, dict[int, Array]]:
    """By torch: of the images, and of kept weights."""
    leaf = torch.from_numpy(images).requires_grad_()
    values, leaves = [leaf], {}
    for number, operation in enumerate(operations):
        arrays = {name: torch.from_numpy(a).clone() for name, a in operation.arrays.items()}
        name = {"convolution": "weight", "linear": "weight", "affine": "scale"}.get(operation.kind)
        if name:
            leaves[number] = arrays[name].requires_grad_(), operation.arrays[name]
        values.append(interpret(operation, [values[i] for i in operation.inputs], arrays))
    values[-1].backward(torch.from_numpy(gradient))
    assert leaf.grad is not None
    weights = {}
    for number, (weight, array) in leaves.items():
        if weight.grad is None:  # the output does not need it
            continue
        kept = array != 0 if array.ndim > 1 else np.ones_like(array)
        weights[number] = weight.grad.numpy() * kept
    return leaf.grad.numpy(), weights


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_agrees_with_torch(name: str) -> None:
    check(NETWORKS[name], SHAPE, counts=(1, 3, 21))


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 8, 16])
@pytest.mark.parametrize("registers", [16, 32])
def test_vectors_of_other_machines_give_the_same(
    width: int, registers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if width > jit.vector_width():
        pytest.skip("this CPU has no such vectors")
    monkeypatch.setattr(jit, "vector_width", lambda: width)
    monkeypatch.setattr(jit, "registers", lambda: registers)
    for name in ("downsample", "pool_overlapping", "pool", "head"):
        check(NETWORKS[name], SHAPE, counts=(2, width + 5))


def any_convolution(seed: int) -> tuple[list[Operation], tuple[int, ...]]:
    """A convolution of any geometry; some of its rows are empty, or all but one weight is zero."""
    random = np.random.default_rng(seed)

    def pair(least: int, most: int) -> list[int]:
        return [int(n) for n in random.integers(least, most + 1, 2)]

    groups = int(random.choice([1, 1, 1, 2, 3]))
    inputs, outputs = (groups * int(n) for n in random.integers(1, 9, 2))
    kernel, padding, dilation, size = pair(1, 5), pair(0, 3), pair(1, 2), pair(1, 18)
    stride = [int(random.integers(1, 4))] * 2
    size = [
        max(n, (k - 1) * d + 1 - 2 * p)
        for n, k, d, p in zip(size, kernel, dilation, padding, strict=True)
    ]
    density = float(random.choice([0, 0.05, 0.3, 1]))
    made = convolution(
        0, outputs, inputs, kernel, density=density, stride=stride, padding=padding,
        dilation=dilation, groups=groups, seed=seed,
    )  # fmt: skip
    weight = made.arrays["weight"]
    weight[random.random(outputs) < 0.3] = 0
    if seed % 5 == 0:
        weight[:] = 0
        weight.reshape(-1)[random.integers(weight.size)] = 1
    return [made], (inputs, *size)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_any_convolution_agrees_with_torch(seed: int) -> None:
    operations, shape = any_convolution(seed)
    check(operations, shape, counts=(1, 18))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8, 60))
def test_many_more_convolutions_agree_with_torch(seed: int) -> None:
    operations, shape = any_convolution(seed)
    check(operations, shape, counts=(2, 35))


def any_network(seed: int) -> tuple[list[Operation], tuple[int, ...]]:
    """Any operations of any values before them, the last one oftener than others."""
    random = np.random.default_rng(seed)

    def one(least: int, most: int) -> int:
        return int(random.integers(least, most + 1))

    shape = (one(1, 4), one(1, 9), one(1, 9))
    operations: list[Operation] = []
    values: list[tuple[int, ...]] = [shape]
    for _ in range(one(6, 20)):
        x = len(values) - 1 if random.random() < 0.6 else one(0, len(values) - 1)
        channels, is_map = values[x][0], len(values[x]) == 3
        alike = [other for other, size in enumerate(values) if size == values[x]]
        size, padding, more = one(0, 2), one(0, 2), one(0, 99)
        made = [simple("relu", x), simple("add", x, int(random.choice(alike)))]
        if is_map:
            after_relu = x > 0 and operations[x - 1].kind == "relu"
            same = convolution(x, channels, channels, (2 * size + 1,) * 2, padding=(size, size))
            other = convolution(
                x, one(1, 6), channels, (one(1, 4), one(1, 4)), stride=(one(1, 3),) * 2,
                padding=(padding, one(0, 2)), dilation=(1, one(1, 2)), seed=more,
            )  # fmt: skip
            window = size + 1, one(1, 3)
            made += [
                same, other, affine(x, channels), pool(x, "max_pool", 2, 2),
                pool(x, "max_pool", *window, size // 2 * after_relu),
                pool(x, "average_pool", *window, size // 2),
                *[simple("flatten", x)] * (more < 30),
            ]  # fmt: skip
        else:
            made += [linear(x, channels, channels), linear(x, one(1, 20), channels)]
        operation = made[one(0, len(made) - 1)]
        with suppress(ValueError):  # a window may be larger than its input
            values = shapes([*operations, operation], shape)
            operations.append(operation)
    return operations or [simple("relu", 0)], shape


def check_any_network(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` of random networks, on other machines' vectors and with other limits, too."""
    width = [n for n in (4, 8, 16) if n <= jit.vector_width()][seed % 3 - 3 :][0]
    for where, name, value in (
        (jit, "vector_width", lambda: width),
        (jit, "registers", lambda: (16, 32)[seed % 2]),
        (images, "LARGE", (1, 30, 576)[seed // 2 % 3]),
        *((layout, name, (256, 0.2)[name == "ENOUGH"]) for layout in (images, pixels)
          for name in ("CACHE", "ENOUGH") if seed % 3),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)
    operations, shape = any_network(seed)
    with suppress(Unsupported):
        check(operations, shape, counts=(2, width + 5))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_any_network_agrees_with_torch(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_any_network(seed, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8, 40))
def test_many_more_networks_agree_with_torch(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_any_network(seed, monkeypatch)


@pytest.mark.parametrize("name", ["downsample", "head", "pool"])
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    one, three = (Program(NETWORKS[name], SHAPE, threads=n, weights=True) for n in (1, 3))
    for count in (1, 2, 4, 16, 90):
        images = normal(count, *SHAPE)
        assert np.array_equal(one(images), three(images))
        found = []
        for program in (one, three):
            output, tape = program.forward(images)
            found.append([program.backward(tape, output), *program.weight_gradients(tape).values()])
        assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


def test_many_threads_may_call_one_program() -> None:
    program, images = Program(NETWORKS["head"], SHAPE, threads=2), normal(40, *SHAPE)
    expected, found = program(images), list[Array]()
    threads = [threading.Thread(target=lambda: found.append(program(images))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(output, expected) for output in found)


def test_new_values_are_taken_over_where_weights_are_kept() -> None:
    operations = [*NETWORKS["head"][:2], affine(2, 6), convolution(3, 4, 6)]
    program = Program(operations, SHAPE)
    images = normal(20, *SHAPE)
    program(images)  # plans are there already
    arrays = [{name: 2 * array for name, array in one.arrays.items()} for one in operations]
    program.set_arrays(arrays)
    reference = ReferenceProgram(operations, SHAPE)
    reference.set_arrays(arrays)
    for count in (1, 20):
        close(program(images[:count]), reference(images[:count]), 1e-5)


def test_a_tape_may_be_used_again_after_another_batch() -> None:
    program = Program(NETWORKS["residual"], SHAPE)
    images = normal(20, *SHAPE)
    output, tape = program.forward(images)
    first = program.backward(tape, output)
    program.forward(2 * images)
    assert np.array_equal(program.backward(tape, output), first)


def test_nan_is_not_hidden() -> None:
    for count in (1, 16):
        images = normal(count, *SHAPE)
        images[0] = np.nan
        found = Program(NETWORKS["pool"], SHAPE)(images)
        assert np.isnan(found[0]).all()
        assert np.isfinite(found[1:]).all()


def test_infinity_reaches_only_what_reads_it() -> None:
    weight = np.zeros((2, 30), np.float32)
    weight[0, ::3], weight[1, 1::3] = 1, 1
    arrays = {"weight": weight, "bias": np.zeros(2, np.float32)}
    program = Program([Operation("linear", (0,), {}, arrays)], (30,))
    for count in (1, 16):
        images = np.ones((count, 30), np.float32)
        images[:, 0] = np.inf
        assert np.array_equal(program(images), np.tile(np.float32([np.inf, 10]), (count, 1)))


@pytest.mark.parametrize("operations", [
    [pool(0, "max_pool", 3, 2, 1)],  # of values below zero, with padding
    [Operation("softmax", (0,))],
    [convolution(0, 2, 3, (9, 9), padding=(0, 0))],
    [simple("flatten", 0)],
    [simple("flatten", 0), linear(1, 192, 192), simple("add", 1, 2)],  # laid out differently
    [convolution(0, 2, 4)],  # of more channels than there are
])  # fmt: skip
def test_what_there_is_no_kernel_for_is_said(operations: list[Operation]) -> None:
    with pytest.raises(Unsupported):
        Program(operations, SHAPE)


def test_batches_of_other_shapes_are_refused() -> None:
    program = Program(NETWORKS["pool"], SHAPE)
    with pytest.raises(ValueError, match=r"images of \(3, 8, 9\); the network takes \(3, 8, 8\)"):
        program(normal(2, 3, 8, 9))
    assert program(normal(0, *SHAPE)).shape == (0, 5, 4, 4)


def test_zeros_around_a_map_stay_when_values_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE", 1)
    kernels = [(3, 3), (4, 3), (3, 3), (3, 3), (3, 3)]  # maps of 47 rows, then 46, in as much room
    operations = [convolution(i, 3, 3, kernel, seed=i) for i, kernel in enumerate(kernels)]
    batch = normal(jit.vector_width(), 3, 47, 4)
    close(
        Program(operations, (3, 47, 4))(batch),
        ReferenceProgram(operations, (3, 47, 4))(batch),
        1e-5,
    )


def test_long_strides_and_wide_padding_take_little_time_and_memory() -> None:
    operations = [
        simple("relu", 0),
        convolution(1, 2, 1, (1, 1), stride=(60000, 60000), padding=(60000, 60000), density=1),
    ]
    batch, arrays = normal(1, 1, 24, 24) ** 2, operations[1].arrays
    program = Program(operations, (1, 24, 24))
    expected = np.zeros((1, 2, 3, 3), np.float32) + arrays["bias"][:, None, None]
    expected[0, :, 1, 1] += arrays["weight"][:, 0, 0, 0] * batch[0, 0, 0, 0]
    output, tape = program.forward(batch)
    for found in (program(batch), output):
        close(found, expected, 1e-5)
    gradient = np.zeros_like(batch)
    gradient[0, 0, 0, 0] = arrays["weight"].sum()
    close(program.backward(tape, np.ones_like(output)), gradient, 1e-5)


ALONE = """
import os, time
import numpy as np
from robustprune.kernels import Operation, Program
images = np.random.default_rng(0).standard_normal((64, 3, 4, 4), np.float32)
made = Program([Operation("relu", (0,))], (3, 4, 4), threads=3)
expected = made(images), made(images[:1])
"""
FORKED = """
if child := os.fork():
    raise SystemExit(os.waitpid(child, 0)[1])
found = made(images), made(images[:1])
os._exit(not all(np.array_equal(*pair) for pair in zip(found, expected)))
"""
FEWER = """
pool, futures = made._pool, []
class Full:
    def submit(self, *call):
        if futures:
            raise RuntimeError("can't start new thread")
        futures.append(pool.submit(*call))
made._pool = Full()
try:
    made(images[:1])
except RuntimeError:
    futures[0].result()
made._pool = pool
assert np.array_equal(made(images[:1]), expected[1])
"""


@pytest.mark.parametrize("code", [FORKED, FEWER], ids=["after_a_fork", "without_all_threads"])
def test_no_call_waits_for_threads_that_there_are_not(code: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", ALONE + code], start_new_session=True)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from robustprune.kernels import Program, Unsupported, plan, program
from tests.kernels import test_program as tests

PAGE, at_end, kept = mmap.PAGESIZE, {at_end}, []
protect = ctypes.CDLL(None).mprotect

def guarded(count):
    "Floats between two pages that nothing may touch, at the end or the start of what lies between."
    size = -(-4 * count // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (start, start + PAGE + size):
        assert protect(ctypes.c_void_p(page), PAGE, 0) == 0
    begin = PAGE + (size - 4 * count if at_end else 0)
    return np.frombuffer(memory, np.float32, count, begin)

plan.aligned = program.aligned = guarded
cases = [(operations, tests.SHAPE) for operations in tests.NETWORKS.values()]
cases += [tests.any_convolution(seed) for seed in range({seeds})]
cases += [tests.any_network(seed) for seed in range({seeds} // 4)]
for operations, shape in cases:
    try:
        made = Program(operations, shape, weights=True)
    except Unsupported:
        continue
    for count in (1, 5, 33):
        images = guarded(count * int(np.prod(shape))).reshape(count, *shape)
        images[:] = 1
        made(images)
        output, tape = made.forward(images)
        made.backward(tape, output)
print("whole")
"""


@pytest.mark.slow
@pytest.mark.parametrize("at_end", [True, False])
def test_nothing_outside_of_arrays_is_touched(at_end: bool) -> None:
    code = GUARDED.format(at_end=at_end, seeds=40)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
