"""The files in which judged batches are kept, and what they count for."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustprune.datasets.source import TensorSource
from robustprune.errors import UsageError
from robustprune.evaluators import create
from robustprune.pipeline.evaluation_state import (
    JudgedBatch,
    KeptBatches,
    Subject,
    clear,
    state_folder,
)
from robustprune.shard import Shard

BATCH = JudgedBatch(
    7,
    torch.tensor([3, 1, 4]),
    {
        "z": torch.tensor([True, False, True]),
        "labels": torch.tensor([1.5, torch.nan, -0.0], dtype=torch.float64),
        "a": torch.tensor([-1, 2**40, 0]),
    },
)


def subject(**changes: Any) -> Subject:
    source = TensorSource(torch.zeros(4, 1, 2, 2), torch.arange(4))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    options = {"model": model, "test": source, "network": "dense", "seed": 0}
    return Subject(**{**options, **changes})


def progress(folder: Path | None, judged: Subject | None = None, **options: Any) -> KeptBatches:
    return KeptBatches(folder, judged or subject(), create("pgd", **options), Shard())


def test_a_batch_comes_back_as_it_was(tmp_path: Path) -> None:
    progress(tmp_path / "new").add([BATCH])
    ((number, found),) = progress(tmp_path / "new").read().items()
    assert (number, found.number) == (7, 7)
    assert found.labels.tolist() == [3, 1, 4]
    assert list(found.images) == ["z", "labels", "a"]
    for name, values in BATCH.images.items():
        assert found.images[name].dtype == values.dtype
        assert found.images[name].numpy().tobytes() == values.numpy().tobytes()


def test_where_nothing_was_judged_there_is_nothing(tmp_path: Path) -> None:
    assert progress(tmp_path / "new").read() == {}
    assert not (tmp_path / "new").exists()
    progress(None).add([BATCH])
    assert progress(None).read() == {}


def other_weights() -> Subject:
    changed = subject()
    with torch.no_grad():
        changed.model[2].bias[0] += 1e-6  # type: ignore[index,operator,union-attr]
    return changed


def other_statistics() -> Subject:
    changed = subject()
    changed.model[1].running_var[3] = 2  # type: ignore[index,union-attr]
    return changed


def other_images() -> Subject:
    return subject(test=TensorSource(torch.ones(4, 1, 2, 2), torch.arange(4)))


@pytest.mark.parametrize(
    "other",
    [
        lambda: subject(seed=1),
        lambda: subject(network="hydra-0.1"),
        lambda: subject(about={"architecture": "another"}),
        other_weights,
        other_statistics,
        other_images,
    ],
)
def test_a_batch_counts_for_its_own_subject_only(
    other: Callable[[], Subject], tmp_path: Path
) -> None:
    progress(tmp_path).add([BATCH])
    assert progress(tmp_path, subject()).read().keys() == {7}
    assert progress(tmp_path, other()).read() == {}


def test_it_counts_for_its_own_evaluator_only(tmp_path: Path) -> None:
    progress(tmp_path).add([BATCH])
    for change in ({"eps": 0.5}, {"label": "era"}, {"batch_size": 9}, {"samples": 3}):
        assert progress(tmp_path, **change).read() == {}


OWN = """
from robustprune.evaluators import Evaluator

class Own(Evaluator):
    registered_name = "own"

    def judge(self, model, images, labels, *, seed):
        return {self.metric: labels == %d}
"""


def test_it_does_not_count_any_more_when_the_users_evaluator_is_rewritten(tmp_path: Path) -> None:
    keys = []
    for number in (0, 1, 0):
        file = tmp_path / f"own_{len(keys)}.py"
        file.write_text(OWN % number)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, file.stem, module)
            spec.loader.exec_module(module)
            keys.append(KeptBatches(tmp_path, subject(), module.Own(), Shard()).key)
    assert keys[0] == keys[2] != keys[1]


def test_another_version_of_torch_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress(tmp_path).add([BATCH])
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert progress(tmp_path).read() == {}


def test_a_file_under_another_number_counts_for_nothing(tmp_path: Path) -> None:
    progress(tmp_path).add([BATCH])
    (tmp_path / "7.safetensors").rename(tmp_path / "8.safetensors")
    assert progress(tmp_path).read() == {}


def test_a_network_is_digested_once(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counting(TensorSource):
        def digest(self) -> str:
            calls.append(1)
            return super().digest()

    judged = subject(test=Counting(torch.zeros(4, 1, 2, 2), torch.arange(4)))
    for eps in (0.1, 0.2):
        progress(tmp_path, judged, eps=eps).add([BATCH, BATCH])
        progress(tmp_path, judged, eps=eps).read()
    assert len(calls) == 1
    assert copy.deepcopy(judged).digest == subject().digest


def test_only_what_was_kept_is_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    progress(folder).add([BATCH])
    (folder / ".8.safetensors.123.tmp").touch()  # of a process that was killed
    clear(folder)
    assert not folder.exists()
    clear(folder)
    progress(folder).add([BATCH])
    (folder / "thesis.txt").touch()
    clear(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def leave_a_batch(folder: Path) -> Path:
    (folder / "pgd").mkdir()
    (folder / "pgd" / "0.safetensors").touch()
    return folder / "pgd"


def test_a_folder_that_is_empty_in_the_end_is_removed(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    held = state_folder(state, ["pgd", "clean"])
    held.__enter__()
    kept = leave_a_batch(state)
    held.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert kept.exists()
    with state_folder(state, ["pgd", "clean"]):
        pass
    assert list((tmp_path / "a").iterdir()) == []


def test_what_is_the_users_or_another_commands_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "0.csv").touch()
    with state_folder(tmp_path, ["clean", "smoothing"]):
        other = leave_a_batch(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "clean", "pgd"}
    assert [path.name for path in (tmp_path / "clean").iterdir()] == ["0.csv"]
    assert (other / "0.safetensors").exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        words = r"cannot be written \(.*Name another folder"
        with pytest.raises(UsageError, match=words), state_folder(place, []):
            pass
