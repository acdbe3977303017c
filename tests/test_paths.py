from __future__ import annotations

from pathlib import Path

import pytest

from robustprune.errors import UsageError
from robustprune.paths import told, usable

USELESS = {
    "empty": ("", "it is empty"),
    "NUL": ("a\0b", "holds a NUL"),
    "surrogate of a byte": ("x\udce4.npz", "it is not UTF-8"),
    "surrogate": ("\ud800", "it is not UTF-8"),
    "long name": ("n" * 5000, "file name too long"),
    "long path": ("n/" * 3000, "file name too long"),
    "circle": ("loop", "symbolic links"),
    "below a circle": ("loop/x", "symbolic links"),
}
"""A path that nothing can be opened by, and what is said of it; ``loop`` links to itself."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("kind", USELESS)
def test_what_no_path_can_be_is_refused_with_the_reason(kind: str, here: Path) -> None:
    text, reason = USELESS[kind]
    with pytest.raises(UsageError, match=reason) as error:
        usable(text)
    assert len(str(error.value)) < 200
    assert "Name another" in str(error.value)


@pytest.mark.parametrize(
    "text", ["gone", "gone/x", "file/x", "folder", "dangling", "~nobody/x", "."]
)
def test_what_may_be_there_or_not_is_left_to_whoever_looks(text: str, here: Path) -> None:
    (here / "file").touch()
    (here / "folder").mkdir()
    (here / "dangling").symlink_to("gone")
    assert usable(text) == Path(text)


def test_what_the_system_says_of_a_path_becomes_a_sentence(here: Path) -> None:
    message = r"^no images: loop: .*links\. Look elsewhere\.$"
    with pytest.raises(UsageError, match=message), told("no images", "Look elsewhere."):
        Path("loop").read_bytes()
