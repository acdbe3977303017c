import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from robustprune.errors import UsageError
from robustprune.training.state import StageState


def state() -> StageState:
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    model = torch.nn.Linear(3, 2)
    model.register_buffer("mask", torch.tensor([True, False]))
    return StageState(
        begun=True,
        epoch=2,
        step=9,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        initial={"w": torch.tensor([True, False])},
        method={"dual": torch.rand(2, 1), "count": 3, "nested": [{"a": None}]},
        generator=torch.Generator().manual_seed(3).get_state(),
        scale={"scale": 2.0**15, "good": 7.0},
        processes=[{"objective": {"noise": torch.rand(2, 1)}, "sums": {"loss": 0.5}}],
        history=[{"loss": 0.5}, {"loss": 0.25, "val_loss": 0.1}],
        best={"w": torch.tensor(1 / 3)},
    )


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        assert isinstance(other, list)
        return all(equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other


class Planted:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


def test_a_state_comes_back_as_it_was(tmp_path):
    saved = state()
    saved.save(tmp_path / "deep" / "state.pt")
    loaded = StageState.load(tmp_path / "deep" / "state.pt")
    assert equal(vars(loaded), vars(saved))


def test_saving_leaves_nothing_else_behind(tmp_path):
    for _ in range(2):
        state().save(tmp_path / "state.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_no_file_is_no_state(tmp_path):
    assert StageState.load(tmp_path / "none.pt") is None


def test_a_save_that_fails_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    state().save(path)
    before = path.read_bytes()

    def broken(value, file):
        file.write(b"half a state")
        raise RuntimeError("no tensor")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="no tensor"):
        StageState(epoch=3).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_the_disk_says_is_not_hidden_behind_words_of_torchs(tmp_path):
    path = tmp_path / "state.pt"
    state().save(path)
    before = path.read_bytes()
    large = StageState(model={"w": torch.zeros(1 << 20)})
    (tmp_path / f".state.pt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        large.save(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == before


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": truncated,
    "flipped": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("epoch: 2"),
    "a list": lambda path: torch.save([1, 2], path),
    "other keys": lambda path: torch.save({"weights": torch.ones(2)}, path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, damage):
    path = tmp_path / "state.pt"
    state().save(path)
    damage(path)
    with pytest.raises(UsageError, match=r"state\.pt is not a readable stage state .* Delete it"):
        StageState.load(path)


def test_nothing_in_a_file_is_executed(tmp_path):
    path, target = tmp_path / "state.pt", tmp_path / "planted"
    document = {"epoch": 1, "method": Planted(target)}
    torch.save(document, path)
    with pytest.raises(UsageError, match="not a readable stage state"):
        StageState.load(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # it would have worked
    assert target.exists()
    target.rmdir()
    path.write_bytes(pickle.dumps(document, protocol=2))
    with pytest.raises(UsageError, match="not a readable stage state"):
        StageState.load(path)
    assert not target.exists()
