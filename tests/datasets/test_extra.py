from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from robustprune import datasets
from robustprune.errors import InvalidError, UsageError

from .fakes import create, pixels, png, write_hub

COUNT = 7


def write(folder, kind):
    """The same 7 images and labels in each of the files that are understood."""
    folder.mkdir(exist_ok=True)
    images, labels = pixels(COUNT, 3, 32, seed=1), np.arange(COUNT)
    if kind == "parquet":
        return write_hub(folder / "x.parquet", [png(image) for image in images], labels.tolist())
    file = folder / f"x.{kind.split('-')[0]}"
    if kind == "pickle":
        content = {"data": images, "extrapolated_targets": labels.tolist(), "note": "text"}
        file.write_bytes(pickle.dumps(content, protocol=3))
    elif kind == "npz":
        np.savez(file, images=images, labels=labels)
    else:
        np.savez(file, X=images.transpose(0, 3, 1, 2), y=labels)
    return file


@pytest.mark.parametrize("kind", ["npz", "npz-channels-first", "parquet", "pickle"])
def test_the_images_of_every_format_come_back(tmp_path, kind):
    file = write(tmp_path / "extra", kind)
    extra = create("cifar10", tmp_path / "data", extra={"path": file}).extra
    found = extra.load(channels=3, size=32, num_classes=10)
    assert torch.equal(
        found.images, torch.from_numpy(pixels(COUNT, 3, 32, seed=1)).permute(0, 3, 1, 2)
    )
    assert found.labels.tolist() == list(range(COUNT))


def test_per_batch_images_are_added_to_each_training_batch_only(tmp_path):
    extra = {"path": write(tmp_path / "extra", "npz"), "per_batch": 5}
    splits = create("cifar10", tmp_path / "data", extra=extra, validation=0.25).load(seed=0)
    batches = list(splits.train.batches(4, generator=torch.Generator().manual_seed(0)))
    assert [len(b.labels) for b in batches] == [9, 9]  # 9 labelled images: the last one is dropped
    assert batches[0].images.shape == (9, 3, 32, 32)
    assert len(splits.train) == 9
    assert all(len(b.labels) == 3 for b in splits.validation.ordered(8))


def test_extra_images_are_augmented_like_the_others(tmp_path):
    extra = {"path": write(tmp_path / "extra", "npz"), "per_batch": 64}
    train = create("cifar10", tmp_path / "data", extra=extra).load(seed=0).train
    assert train.extra.augment == train.labelled.augment is not None
    plain = create("cifar10", tmp_path / "more", extra=extra, augment=False).load(seed=0).train
    assert plain.extra.augment is None


def test_the_subset_limits_labelled_images_only(tmp_path):
    extra = {"path": write(tmp_path / "extra", "npz"), "per_batch": 2}
    train = create("cifar10", tmp_path / "data", extra=extra, subset=4).load(seed=0).train
    assert (len(train), len(train.extra)) == (4, COUNT)


def test_the_file_is_searched_like_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTPRUNE_DATA", str(tmp_path / "shared"))
    dataset = create("cifar10", tmp_path / "data", extra={"path": "some/x.npz"})
    with pytest.raises(UsageError) as error:
        dataset.load(seed=0)
    for place in ("work/some/x.npz", "shared/some/x.npz", "shared/x.npz"):
        assert str(tmp_path / place) in str(error.value)
    write(tmp_path / "shared", "npz")
    assert len(dataset.load(seed=0).train.extra) == COUNT


def refused():
    images, labels = pixels(2, 3, 32), np.array([0, 1])
    return {
        "no labels": ({"images": images}, "labels, y, extrapolated_targets was expected.*images"),
        "float": ({"images": images / 255, "labels": labels}, "expected uint8 images"),
        "size": ({"images": images[:, :30], "labels": labels}, "3×32×32"),
        "grey": ({"images": images[..., :1], "labels": labels}, "3×32×32"),
        "count": ({"images": images, "labels": labels[:1]}, "expected 2 whole-numbered labels"),
        "fractions": ({"images": images, "labels": labels / 2}, "whole-numbered"),
        "class": ({"images": images, "labels": labels + 9}, "labels must be in 0 … 9"),
        "objects": ({"images": images, "labels": np.array([0, None])}, "plain arrays"),
    }


@pytest.mark.parametrize("case", refused())
def test_what_does_not_fit_the_dataset_is_refused(tmp_path, case):
    content, message = refused()[case]
    np.savez(tmp_path / "x.npz", **content)
    dataset = create("cifar10", tmp_path / "data", extra={"path": tmp_path / "x.npz"})
    with pytest.raises(UsageError, match=message) as error:
        dataset.load(seed=0)
    assert str(tmp_path / "x.npz") in str(error.value)


@pytest.mark.parametrize("keep", [0, 2000])
def test_a_truncated_archive_is_named(tmp_path, keep):
    file = write(tmp_path / "extra", "npz")
    file.write_bytes(file.read_bytes()[:keep])
    dataset = create("cifar10", tmp_path / "data", extra={"path": file})
    with pytest.raises(UsageError, match=r"x\.npz: not a readable"):
        dataset.load(seed=0)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "x.txt").touch()
    dataset = create("cifar10", tmp_path / "data", extra={"path": tmp_path / "x.txt"})
    with pytest.raises(UsageError, match=r"from \.npz, \.parquet"):
        dataset.load(seed=0)


@pytest.mark.parametrize("extra", [{"path": "x", "per_batch": 0}, {"per_batch": 8}, {"pth": "x"}])
def test_wrong_options_are_named_with_their_place(extra):
    with pytest.raises(InvalidError, match=r"^extra\."):
        datasets.create("cifar10", extra=extra)
