from __future__ import annotations

import hashlib

import pytest
import torch

from robustprune.datasets.small_images import CropFlip
from robustprune.datasets.source import Mixed, TensorSource
from robustprune.errors import UsageError


def numbered(count: int, *, start: int = 0, augment: CropFlip | None = None) -> TensorSource:
    """Image i is filled with its own number, and so is its label."""
    labels = torch.arange(start, start + count)
    return TensorSource(
        labels.to(torch.uint8)[:, None, None, None].repeat(1, 1, 2, 2), labels, augment
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2]), (3, [3])])
def test_the_last_batch_is_kept_unless_it_is_a_single_image(count, sizes):
    source = numbered(count)
    assert [len(b.labels) for b in source.batches(4, generator=seeded())] == sizes
    assert source.steps(4) == len(sizes)


def test_images_stay_with_their_labels():
    for images, labels, _ in numbered(50).batches(8, generator=seeded()):
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)


def test_ordered_gives_the_first_images_in_file_order():
    labels = [b.labels.tolist() for b in numbered(10).ordered(4, limit=6)]
    assert labels == [[0, 1, 2, 3], [4, 5]]
    assert sum(len(b.labels) for b in numbered(10).ordered(4, limit=99)) == 10
    assert list(numbered(10).ordered(4, limit=0)) == []


def test_only_the_batches_that_are_asked_for_are_read(monkeypatch):
    source, read = numbered(10), []
    original = TensorSource.read

    def reading(self, indices, draws):
        read.extend(indices.tolist())
        return original(self, indices, draws)

    monkeypatch.setattr(TensorSource, "read", reading)
    labels = [b.labels.tolist() for b in source.ordered(4, limit=9, numbers=[2, 0])]
    assert labels == [[8], [0, 1, 2, 3]]
    assert read == [8, 0, 1, 2, 3]
    assert list(source.ordered(4, numbers=[])) == []


def test_ordered_images_are_not_augmented():
    source = numbered(20, start=1, augment=CropFlip(padding=2))
    assert all(b.images.min() > 0 for b in source.ordered(20))
    assert any(b.images.min() == 0 for b in source.batches(20, generator=seeded()))


def test_ranks_share_the_batches_of_one_process():
    def epoch(**ranks: int):
        source = numbered(18, augment=CropFlip(padding=1))
        return list(source.batches(6, generator=seeded(), **ranks))

    whole, shares = epoch(), [epoch(rank=rank, world=2) for rank in range(2)]
    assert len(whole) == len(shares[0]) == len(shares[1]) == 3
    for batch, first, second in zip(whole, *shares, strict=True):
        for rank, share in enumerate((first, second)):
            assert torch.equal(share.labels, batch.labels[rank::2])
            assert torch.equal(share.images, batch.images[rank::2])


def test_a_last_batch_too_small_for_every_rank_is_dropped_on_all():
    source = numbered(7)  # 4 + 3: the second rank would get one image
    for rank in range(2):
        batches = list(source.batches(4, generator=seeded(), rank=rank, world=2))
        assert [len(b.labels) for b in batches] == [2]
    assert source.steps(4, world=2) == 1


def test_a_batch_smaller_than_the_number_of_processes_is_refused():
    with pytest.raises(UsageError, match="a batch of 2 cannot be shared among 4"):
        numbered(8).steps(2, world=4)


def test_a_fixed_number_of_extra_images_is_added_to_each_batch():
    source = Mixed(numbered(10), numbered(7, start=100), per_batch=3)
    batches = [b.labels.tolist() for b in source.batches(4, generator=seeded())]
    assert len(source) == 10
    assert [len(b) for b in batches] == [4 + 3, 4 + 3, 2 + 3]
    labelled = [label for b in batches for label in b[:-3]]
    added = [label for b in batches for label in b[-3:]]
    assert sorted(labelled) == list(range(10))
    assert set(added[:7]) == set(range(100, 107))  # each once, then anew
    assert set(added[7:]) <= set(range(100, 107))


def test_extra_images_are_drawn_anew_each_epoch_and_absent_in_file_order():
    source = Mixed(numbered(4), numbered(50, start=100), per_batch=5)
    first, again, other = (next(source.batches(4, generator=seeded(s))).labels for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert next(source.ordered(64)).labels.tolist() == [0, 1, 2, 3]


def test_extra_images_are_shared_among_the_ranks_too():
    source = Mixed(numbered(4), numbered(50, start=100), per_batch=4)
    whole = next(source.batches(4, generator=seeded())).labels
    share = next(source.batches(4, generator=seeded(), rank=1, world=2)).labels
    assert torch.equal(share, whole[1::2])
    assert (share >= 100).tolist() == [False, False, True, True]


def test_a_selection_of_mixed_images_keeps_the_extra_ones():
    source = Mixed(numbered(10), numbered(5, start=100), per_batch=2).select(torch.tensor([3, 4]))
    batch = next(source.batches(4, generator=seeded()))
    assert sorted(batch.labels.tolist())[:2] == [3, 4]
    assert len(batch.labels) == 4


def test_a_digest_is_sha256_of_type_shape_pixels_and_labels():
    images = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    labels = torch.tensor([3, 1])
    content = b"torch.uint8 (2, 1, 2, 2)" + bytes(range(8))
    content += b"".join(label.to_bytes(8, "little") for label in (3, 1))
    assert TensorSource(images, labels).digest() == hashlib.sha256(content).hexdigest()[:16]


def test_extra_images_and_their_number_are_part_of_the_digest():
    labels = torch.zeros(4).long()
    labelled, extra = (TensorSource(torch.full((4, 1, 2, 2), v), labels) for v in (0.1, 0.2))
    mixed = [Mixed(labelled, extra, per_batch=n) for n in (1, 2)]
    other = Mixed(labelled, labelled, per_batch=1)
    assert len({source.digest() for source in (labelled, extra, other, *mixed)}) == 5
