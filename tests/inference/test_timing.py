from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest

from robustprune import kernels
from robustprune.inference.recognition import KnownOperation
from robustprune.inference.timing import Table, layer_seconds, least_seconds
from robustprune.kernels import Operation
from tests.kernels.reference import ReferenceProgram


def layer(kept: int = 6) -> KnownOperation:
    weight = np.zeros((4, 6), np.float32)
    weight.flat[:kept] = 1
    return KnownOperation(
        Operation("linear", (0,), {}, {"weight": weight, "bias": np.zeros(4, np.float32)}), "fc"
    )


def test_the_least_of_several_rounds() -> None:
    calls: list[int] = []

    def slow_at_first() -> None:
        calls.append(0)
        time.sleep(0.03 if len(calls) == 1 else 0.001)

    first, second = least_seconds(slow_at_first, lambda: time.sleep(0.004))
    assert 0.001 <= first < 0.03
    assert second >= 0.004


def test_the_table_is_kept_for_one_machine(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    table = Table(path, "this")
    assert table.seconds("key", lambda: [1.23456, 0.5]) == [1.23, 0.5]
    assert table.seconds("key", lambda: pytest.fail("measured")) == [1.23, 0.5]
    table.save()
    assert Table(path, "this").seconds("key", lambda: pytest.fail("measured")) == [1.23, 0.5]
    assert Table(path, "another").seconds("key", lambda: [3.0, 1.0]) == [3.0, 1.0]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"machine": "this", "rows": 3}', '{"machine": "this", "rows": {"key": [1]}}'],
)
def test_a_table_that_is_spoilt_is_measured_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "layers.json"
    path.write_text(content)
    table = Table(path, "this")
    assert table.seconds("key", lambda: [2.0, 1.0]) == [2.0, 1.0]
    table.save()
    assert json.loads(path.read_text())["rows"] == {"key": [2.0, 1.0]}


def test_a_table_that_cannot_be_kept_is_no_fault(tmp_path: Path) -> None:
    for path in (None, tmp_path / "a folder"):
        if path:
            path.mkdir()
        table = Table(path, "this")
        table.seconds("key", lambda: [2.0, 1.0])
        table.save()


def test_a_layer_is_measured_once_for_like_numbers_of_weights() -> None:
    table, made = Table(None, ""), []

    def program(operations: list[Operation], shape: tuple[int, ...]) -> ReferenceProgram:
        made.append([one.kind for one in operations])
        return ReferenceProgram(operations, shape)

    def seconds(kept: int, batch: int = 2) -> object:
        return layer_seconds(
            layer(kept), (6,), batch=batch, threads=1, table=table, program=program
        )

    first = seconds(12)
    assert made == [["linear", "relu"], ["relu"], ["relu"]]  # and the two changes of layout
    assert seconds(13) == first
    assert len(made) == 3
    seconds(24)
    assert len(made) == 4
    seconds(12, batch=3)
    assert len(made) == 7


def test_a_layer_that_the_kernels_refuse_is_never_faster() -> None:
    def program(*_: object) -> ReferenceProgram:
        raise kernels.Unsupported("this")

    found = layer_seconds(layer(), (6,), batch=2, threads=1, table=Table(None, ""), program=program)
    assert found.dense > 0
    assert found.sparse == math.inf
