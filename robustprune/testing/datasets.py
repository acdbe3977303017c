"""The contract of datasets: images in [0, 1], splits and orders that follow from seeds alone."""

from __future__ import annotations

import torch
from torch import Tensor

from robustprune.datasets import Dataset
from robustprune.datasets.source import Source
from robustprune.testing.contract import Contract, changed, expect

DATASETS = Contract("open", "num_classes", "channels", "image_size")
_MOST = 256  # images that are compared, of large datasets


def _epoch(source: Source, seed: int) -> tuple[Tensor, Tensor]:
    """The first images of an epoch, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = [], []
    for batch in source.batches(min(64, max(1, len(source) // 2)), generator=generator):
        images.append(batch.images)
        labels.append(batch.labels)
        if sum(map(len, labels)) >= _MOST:
            break
    return torch.cat(images), torch.cat(labels)


def _rows(source: Source, most: int = _MOST) -> list[bytes]:
    """The first images in their order, as bytes."""
    found: list[bytes] = []
    for batch in source.ordered(64):
        found += [image.numpy().tobytes() for image in batch.images]
        if len(found) >= most:
            break
    return found[:most]


def _training(dataset: Dataset, *, seed: int = 0) -> Source:
    train = dataset.load(seed=seed, test=False).train
    assert train is not None
    return train


@DATASETS.promise
def gives_images_in_range(dataset: Dataset) -> None:
    """Images are floats in [0, 1] of the promised shape, labels whole numbers of its classes."""
    splits = dataset.load(seed=0)
    shape = (splits.channels, splits.image_size, splits.image_size)
    for part in (splits.train, splits.test):
        assert part is not None
        batch = next(part.ordered(32))
        images, labels = batch.images, batch.labels
        expect(images.shape[1:] == shape, f"images are {tuple(images.shape[1:])}, not {shape}")
        expect(images.dtype == torch.float32, f"images are {images.dtype}")
        low, high = images.min().item(), images.max().item()
        expect(0 <= low < high <= 1, f"pixels from {low:g} to {high:g}")
        expect(high > 0.1, f"the brightest pixel is {high:g}: divided by 255 twice?")
        expect(labels.dtype == torch.int64, f"labels are {labels.dtype}")
        low, high = int(labels.min()), int(labels.max())
        classes = splits.num_classes
        expect(0 <= low <= high < classes, f"labels from {low} to {high}, of {classes} classes")


@DATASETS.promise
def orders_by_the_generator(dataset: Dataset) -> None:
    """An epoch follows from its generator alone; another one gives another order."""
    train = _training(dataset)
    torch.manual_seed(1)
    first, state = _epoch(train, seed=7), torch.random.get_rng_state()
    torch.manual_seed(2)
    second = _epoch(train, seed=7)
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    expect(same, "the same generator gave other images")
    expect(not torch.equal(first[0], _epoch(train, seed=8)[0]), "another one gave the same")
    torch.manual_seed(1)
    expect(torch.equal(state, torch.random.get_rng_state()), "the global generator was drawn from")


@DATASETS.promise
def holds_out_by_the_seed(dataset: Dataset) -> None:
    """Validation images are held out of training, by the seed alone, and are never augmented."""
    quarter = changed(dataset, validation=0.25, augment=False, subset=None)
    splits = quarter.load(seed=0, test=False)
    count = len(splits.train) + len(splits.validation)
    found = len(splits.validation)
    expect(found == round(0.25 * count), f"{found} of {count} images for a quarter")
    held_out = _rows(splits.validation)
    again = quarter.load(seed=0, test=False).validation
    expect(_rows(again) == held_out, "the same seed holds out other images")
    expect(
        _rows(quarter.load(seed=1, test=False).validation) != held_out, "seeds make no difference"
    )
    augmented = changed(quarter, augment=True).load(seed=0, test=False).validation
    expect(_rows(augmented) == held_out, "validation images are augmented")
    if count <= _MOST:
        expect(not set(_rows(splits.train)) & set(held_out), "training sees validation images")


@DATASETS.promise
def takes_a_subset(dataset: Dataset) -> None:
    """A subset is the first of the training images, and an epoch shows each of them once."""
    train = _training(changed(dataset, validation=0.25, augment=False, subset=None))
    few = min(64, len(train) - 1)
    part = _training(changed(dataset, validation=0.25, augment=False, subset=few))
    expect(len(part) == few, f"{len(part)} images for a subset of {few}")
    expect(_rows(part) == _rows(train, few), "it is not the first ones")
    epoch = next(part.batches(few, generator=torch.Generator().manual_seed(0)))
    shown = [image.numpy().tobytes() for image in epoch.images]
    expect(sorted(shown) == sorted(_rows(part)), "an epoch shows other images, or some twice")


@DATASETS.promise
def loads_what_is_asked_for(dataset: Dataset) -> None:
    """Training or test images are left out where they are not asked for."""
    quarter = changed(dataset, validation=0.25)
    expect(quarter.load(seed=0, test=False).test is None, "test images without being asked")
    splits = quarter.load(seed=0, train=False)
    expect(
        splits.train is None and splits.validation is None, "training images without being asked"
    )
    expect(splits.test is not None, "there are no test images")


@DATASETS.promise
def has_a_digest(dataset: Dataset) -> None:
    """A digest of 16 hexadecimal digits says which images, in which order, it holds."""
    train = _training(changed(dataset, subset=None))
    digest = train.digest()
    expect(len(int(digest, 16).to_bytes(8, "big")) == 8, f"the digest is {digest}")
    expect(
        digest == _training(changed(dataset, subset=None), seed=1).digest(), "it goes by the seed"
    )
    every = torch.arange(len(train))
    same = train.select(every, augment=False).digest() == digest
    expect(same, "it goes by augmentation")
    others = {train.select(every[1:]).digest(), train.select(every.flip(0)).digest()}
    expect(len(others | {digest}) == 3, "other images, or another order, have the same digest")
