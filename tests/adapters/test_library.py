from __future__ import annotations

import sys

import pytest

from robustprune.adapters.library import LIBRARIES, load
from robustprune.errors import MissingDependencyError


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("torchattacks", "pip install --no-deps torchattacks"),
        ("auto_LiRPA", "pip install --no-deps auto-LiRPA"),
    ],
)
def test_a_missing_library_is_told_with_the_line_that_installs_it(
    module: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as error:
        load(module)
    assert line in [text.strip() for text in str(error.value).splitlines()]


def test_those_that_are_needed_already_are_there() -> None:
    assert load("torchattacks").__name__ == "torchattacks"
    assert set(LIBRARIES) == {"torchattacks", "auto_LiRPA"}
