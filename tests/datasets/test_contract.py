"""What every registered dataset promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustprune import datasets
from robustprune.datasets.source import Source
from robustprune.errors import InvalidError, UsageError

from .fakes import create

every_dataset = pytest.mark.parametrize("name", datasets.names())


def epoch(source: Source, seed: int, batch_size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batches = list(source.batches(batch_size, generator=generator))
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


def rows(source: Source) -> set[bytes]:
    return {image.numpy().tobytes() for b in source.ordered(64) for image in b.images}


@every_dataset
def test_images_and_labels_have_the_promised_shape_type_and_range(name, tmp_path):
    splits = create(name, tmp_path / "data").load(seed=0)
    shape = (splits.channels, splits.image_size, splits.image_size)
    generator = torch.Generator().manual_seed(0)
    for batches in (splits.train.batches(4, generator=generator), splits.test.ordered(4)):
        batch = next(iter(batches))
        assert batch.images.shape == (4, *shape)
        assert batch.images.dtype == torch.float32
        assert 0 <= batch.images.min() < batch.images.max() <= 1
        assert batch.images.max() > 0.5
        assert batch.labels.dtype == torch.int64
        assert 0 <= batch.labels.min() <= batch.labels.max() < splits.num_classes


@every_dataset
def test_an_epoch_follows_from_the_generator_alone(name, tmp_path):
    train = create(name, tmp_path / "data").load(seed=0, test=False).train
    torch.manual_seed(1)
    first = epoch(train, seed=7)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    second = epoch(train, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], epoch(train, seed=8)[0])
    torch.manual_seed(1)
    epoch(train, seed=7)
    assert torch.equal(state, torch.random.get_rng_state())


@every_dataset
def test_reading_leaves_the_global_generator_alone(name, tmp_path):
    dataset = create(name, tmp_path / "data", validation=0.25)
    before = torch.random.get_rng_state()
    splits = dataset.load(seed=3)
    epoch(splits.train, seed=0)
    list(splits.test.ordered(4))
    assert torch.equal(before, torch.random.get_rng_state())


@every_dataset
def test_validation_is_held_out_of_training_by_the_seed(name, tmp_path):
    dataset = create(name, tmp_path / "data", validation=0.25, augment=False)
    splits = dataset.load(seed=0, test=False)
    training, held_out = rows(splits.train), rows(splits.validation)
    count = len(splits.train) + len(splits.validation)
    assert len(splits.validation) == round(0.25 * count)
    assert not training & held_out
    assert rows(dataset.load(seed=0).validation) == held_out
    assert rows(dataset.load(seed=1).validation) != held_out


@every_dataset
def test_validation_images_are_never_augmented(name, tmp_path):
    held_out = create(name, tmp_path / "data", validation=0.25).load(seed=0).validation
    shuffled, _ = epoch(held_out, seed=0, batch_size=2 if len(held_out) % 2 == 0 else len(held_out))
    assert {image.numpy().tobytes() for image in shuffled} == rows(held_out)


@every_dataset
def test_without_augmentation_an_epoch_is_a_permutation(name, tmp_path):
    train = create(name, tmp_path / "data", augment=False).load(seed=0).train
    images, labels = epoch(train, seed=0, batch_size=6)
    ordered = list(train.ordered(6))
    assert {image.numpy().tobytes() for image in images} == rows(train)
    assert sorted(labels.tolist()) == sorted(torch.cat([b.labels for b in ordered]).tolist())
    assert not torch.equal(labels, torch.cat([b.labels for b in ordered]))


@every_dataset
def test_subset_takes_the_first_training_images_after_the_split(name, tmp_path):
    options = {"validation": 0.25, "augment": False}
    whole = create(name, tmp_path / "a", **options).load(seed=0).train
    part = create(name, tmp_path / "b", **options, subset=3).load(seed=0).train
    assert len(part) == 3
    expected, found = next(whole.ordered(3)), next(part.ordered(64))
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)


@every_dataset
def test_only_what_is_asked_for_is_loaded(name, tmp_path):
    dataset = create(name, tmp_path / "data", validation=0.25)
    assert dataset.load(seed=0, test=False).test is None
    splits = dataset.load(seed=0, train=False)
    assert splits.train is None
    assert splits.validation is None
    assert splits.test is not None


@every_dataset
def test_too_large_a_subset_is_the_users_error(name, tmp_path):
    dataset = create(name, tmp_path / "data", subset=10**6)
    with pytest.raises(UsageError, match="1000000 training images"):
        dataset.load(seed=0)


@every_dataset
def test_options_out_of_range_are_refused(name):
    wrong = {"validation": 1.0, "subset": 0, "rooot": "x"}
    with pytest.raises(InvalidError) as error:
        datasets.create(name, **wrong)
    assert {problem.place[0] for problem in error.value.problems} == wrong.keys()


@pytest.mark.parametrize("name", sorted(set(datasets.names()) - {"digits"}))
def test_missing_files_are_named_with_every_place_and_a_remedy(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTPRUNE_DATA", str(tmp_path / "shared"))
    options = {} if name == "imagefolder" else {"download": False}
    with pytest.raises(UsageError) as error:
        datasets.create(name, **options).load(seed=0)
    message = str(error.value)
    places = (
        Path.cwd() / "data" / name,
        tmp_path / "shared/data" / name,
        tmp_path / "shared" / name,
    )
    assert all(f"{place}" in message for place in places)
    assert "root:" in message


@every_dataset
def test_the_digest_follows_the_images_and_nothing_else(name, tmp_path):
    dataset = create(name, tmp_path / "data")
    splits = dataset.load(seed=0)
    train = splits.train
    assert train.digest() == dataset.load(seed=1).train.digest()
    assert len(int(train.digest(), 16).to_bytes(8, "big")) == 8
    every = torch.arange(len(train))
    assert train.select(every, augment=False).digest() == train.digest()
    assert len({train.digest(), splits.test.digest(), train.select(every[1:]).digest()}) == 3
    assert train.select(every.flip(0)).digest() != train.digest()
