"""One evaluator in several processes, threads here, and in one that goes on."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustprune.datasets.source import TensorSource
from robustprune.errors import PeerError
from robustprune.evaluators import Evaluator
from robustprune.pipeline.evaluate import judge
from robustprune.pipeline.evaluation_state import KeptBatches, Subject
from robustprune.shard import Shard
from robustprune.tracking import Console

from ..test_shard import each

IMAGES = 11
VALUES = torch.arange(IMAGES).float() / 16


class Reads(Evaluator):
    """Says of each image how bright it is; draws nothing, so that threads may do it."""

    registered_name = "reads"
    judged: ClassVar[list[int]] = []
    broken: ClassVar[set[int]] = set()
    error: ClassVar[type[BaseException]] = ArithmeticError

    batch_size: int = 2

    def judge(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int
    ) -> dict[str, Tensor]:
        if self.broken & set(labels.tolist()):
            raise self.error("too bright")
        self.judged.append(int(labels[0]) // 2)
        values = images[:, 0, 0, 0]
        return {self.metric: values > 0.25, "brightness": values, "seed": labels * 0 + seed}


Judged = tuple[list[int], dict[str, list[Any]], list[str]]


def judging(
    evaluator: Evaluator,
    *,
    seed: int = 0,
    progress: Path | None = None,
    console: Console | None = None,
) -> Callable[[Shard], Judged]:
    def work(shard: Shard) -> Judged:
        source = TensorSource(VALUES.view(-1, 1, 1, 1), torch.arange(IMAGES))
        subject = Subject(nn.Identity(), source, network="dense", seed=seed)
        labels, images = judge(
            evaluator,
            subject,
            device=torch.device("cpu"),
            console=console or Console(quiet=True),
            shard=shard,
            kept=KeptBatches(progress, subject, evaluator, shard),
        )
        return labels.tolist(), {k: v.tolist() for k, v in images.items()}, list(images)

    return work


@pytest.fixture(autouse=True)
def whole() -> None:
    Reads.judged.clear()
    Reads.broken.clear()
    Reads.error = ArithmeticError


@pytest.mark.parametrize("world", [2, 3, 8])
def test_all_processes_give_the_verdict_of_one(world: int) -> None:
    alone = judging(Reads())(Shard())
    assert alone[0] == list(range(IMAGES))
    assert each(world, judging(Reads())) == [alone] * world


@pytest.mark.parametrize("world", [2, 3])
def test_an_evaluator_that_fails_in_one_process_stops_all(world: int, tmp_path: Path) -> None:
    Reads.broken.add(6)  # in batch 3
    results = each(world, judging(Reads(), progress=tmp_path / "kept"))
    failed = results.pop(3 % world)
    assert isinstance(failed, ArithmeticError)
    assert all(isinstance(error, PeerError) for error in results)
    assert len(list((tmp_path / "kept").iterdir())) == 3 // world * world


def test_a_disk_that_cannot_be_written_stops_all(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    first, *others = each(3, judging(Reads(), progress=tmp_path / "file"))
    assert isinstance(first, OSError)
    assert all(isinstance(error, PeerError) for error in others)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_what_other_processes_have_judged_is_not_judged_again(world: int, tmp_path: Path) -> None:
    expected = judging(Reads())(Shard())
    Reads.broken.add(6)
    each(2, judging(Reads(), progress=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"0.safetensors", "1.safetensors"}
    Reads.broken.clear()
    Reads.judged.clear()
    found = each(world, judging(Reads(), progress=tmp_path))
    assert sorted(Reads.judged) == [2, 3, 4, 5]
    assert found == [expected] * world
    again = each(world, judging(Reads(), progress=tmp_path))
    assert len(Reads.judged) == 4
    assert again == [expected] * world


@pytest.mark.parametrize(
    ("change", "seed", "again"),
    [({}, 0, 0), ({"label": "other"}, 0, 6), ({"samples": 9}, 0, 5), ({}, 1, 6)],
)
def test_what_belongs_to_something_else_is_judged_again(
    change: dict[str, Any], seed: int, again: int, tmp_path: Path
) -> None:
    judging(Reads(), progress=tmp_path)(Shard())
    Reads.judged.clear()
    found = judging(Reads(**change), seed=seed, progress=tmp_path)(Shard())
    assert len(Reads.judged) == again
    assert found == judging(Reads(**change), seed=seed)(Shard())


@pytest.mark.parametrize("damage", ["truncated", "a bit", "empty"])
def test_a_damaged_batch_is_judged_again_and_replaced(damage: str, tmp_path: Path) -> None:
    expected = judging(Reads(), progress=tmp_path)(Shard())
    file = tmp_path / "3.safetensors"
    whole = file.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    file.write_bytes({"truncated": whole[:-9], "a bit": flipped, "empty": b""}[damage])
    Reads.judged.clear()
    assert judging(Reads(), progress=tmp_path)(Shard()) == expected
    assert Reads.judged == [3]
    assert file.read_bytes() == whole


def test_the_main_process_shows_how_far_all_are() -> None:
    texts = [io.StringIO() for _ in range(2)]
    each(2, lambda shard: judging(Reads(), console=Console(file=texts[shard.rank]))(shard))
    assert "dense reads  11/11" in texts[0].getvalue()
    assert "accuracy 0.545" in texts[0].getvalue()


def test_every_process_that_is_interrupted_is_interrupted() -> None:
    Reads.broken.update({0, 2, 4})
    Reads.error = KeyboardInterrupt

    def caught(shard: Shard) -> str:
        try:
            return str(judging(Reads())(shard))
        except KeyboardInterrupt:
            return "interrupted"

    assert each(3, caught) == ["interrupted"] * 3
