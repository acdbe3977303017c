from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from robustprune.datasets.extra import read_arrays
from robustprune.errors import UsageError


class Plant:
    """Would write a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch {self.target}",))


def test_arrays_and_plain_values_are_read(tmp_path):
    file = tmp_path / "good.pickle"
    content = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "y": [np.int64(3), 4], "s": "x"}
    for protocol in (3, 4):
        file.write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_arrays(file)
        assert np.array_equal(found["data"], content["data"])
        assert (found["y"], found["s"]) == ([3, 4], "x")


def test_arrays_are_read_whatever_numpy_calls_its_module(tmp_path):
    content = pickle.dumps({"data": np.arange(3)}, protocol=3)
    assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
    for module in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        file = tmp_path / "renamed.pickle"
        renamed = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        file.write_bytes(renamed.replace(b"numpy.core.multiarray", module))
        assert read_arrays(file)["data"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_runs_a_command_is_refused_and_runs_nothing(tmp_path, protocol):
    target, file = tmp_path / "planted", tmp_path / "bad.pickle"
    file.write_bytes(pickle.dumps({"data": Plant(target)}, protocol=protocol))
    with pytest.raises(UsageError, match=r"bad\.pickle: refused.*'(posix|nt)\.system'"):
        read_arrays(file)
    assert not target.exists()
    pickle.loads(file.read_bytes())
    assert target.exists()  # the plant works, so it was the reader that stopped it


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy", "memmap"),
        ("numpy.core.multiarray", "fromfile"),
        ("robustprune.datasets.extra", "pickle.loads"),
    ],
)
def test_nothing_but_the_named_functions_is_let_through(tmp_path, module, name):
    file = tmp_path / "bad.pickle"
    strings = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
    file.write_bytes(b"\x80\x04" + strings + b"\x93.")
    with pytest.raises(UsageError, match=f"refused.*'{module}.{name}'"):
        read_arrays(file)


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"\x80\x04}"])
def test_a_damaged_pickle_is_named(tmp_path, content):
    file = tmp_path / "damaged.pickle"
    file.write_bytes(content)
    with pytest.raises(
        UsageError, match=r"damaged\.pickle: (not a readable pickle|expected a dict)"
    ):
        read_arrays(file)


def test_something_else_than_a_dictionary_is_named(tmp_path):
    file = tmp_path / "list.pickle"
    file.write_bytes(pickle.dumps([1]))
    with pytest.raises(UsageError, match="expected a dictionary, found list"):
        read_arrays(file)
