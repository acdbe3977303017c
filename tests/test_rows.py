from __future__ import annotations

import pytest
import torch

from robustprune.rows import Rows, rows_of, sharing


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("total", [6, 7, 8])
def test_the_processes_have_each_image_once(total: int, world: int) -> None:
    rows = [Rows(total, rank, world) for rank in range(world)]
    batch = torch.arange(total)
    assert sorted(torch.cat([batch[r.place] for r in rows]).tolist()) == batch.tolist()
    assert [len(r) for r in rows] == [len(batch[r.place]) for r in rows]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_are_cut_from_the_whole_batch_whatever_the_number_of_processes(
    parts: int, world: int
) -> None:
    total = 11
    whole = [torch.arange(total)[where].tolist() for where, _ in Rows(total).cut(parts)]
    assert max(map(len, whole)) - min(map(len, whole)) <= 1
    for rank in range(world):
        mine = torch.arange(total)[rank::world]
        for (where, rows), part in zip(Rows(total, rank, world).cut(parts), whole, strict=True):
            assert rows.total == len(part)
            assert mine[where].tolist() == part[rows.place]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_chosen_images_are_found_by_the_process_that_has_them(world: int) -> None:
    chosen, found = torch.tensor([5, 0, 7, 2]), []
    for rank in range(world):
        rows = Rows(8, rank, world)
        found += torch.arange(8)[rows.place][rows.here(chosen)].tolist()
    assert sorted(found) == sorted(chosen.tolist())


def test_a_process_on_its_own_has_the_whole_batch() -> None:
    images = torch.zeros(5, 1, 2, 2)
    assert rows_of(images) == Rows(5)
    with sharing(Rows(9, 1, 2)):
        assert rows_of(images) == Rows(9, 1, 2)
    assert rows_of(images) == Rows(5)
