from __future__ import annotations

import pytest
import torch

from robustprune import datasets
from robustprune.datasets.small_images import CropFlip
from robustprune.errors import UsageError

from .fakes import pixels, png, write_hub, write_split


def cifar10(root, **options):
    return datasets.create("cifar10", root=root, download=False, **options)


@pytest.mark.parametrize(
    ("folder", "image", "label"),
    [(".", "img", "label"), ("data", "image", "labels"), ("plain_text", "image", "fine_label")],
)
def test_pixels_come_back_from_wherever_the_hub_puts_them(tmp_path, folder, image, label):
    wanted = pixels(3, 3, 32)
    file = tmp_path / folder / "test-00000-of-00001.parquet"
    write_hub(file, [png(each) for each in wanted], [9, 0, 4], image=image, label=label)
    source = cifar10(tmp_path).load(seed=0, train=False).test
    assert torch.equal(source.images, torch.from_numpy(wanted).permute(0, 3, 1, 2))
    assert source.labels.tolist() == [9, 0, 4]


def test_cifar100_has_its_fine_labels(tmp_path):
    dataset = datasets.create("cifar100", root=tmp_path)
    write_split(
        tmp_path, "test", dataset, 3, image="img", label="fine_label", coarse_label=[5, 5, 5]
    )
    assert dataset.load(seed=0, train=False).test.labels.tolist() == [0, 1, 2]


def test_shards_are_read_in_order(tmp_path):
    for part in (1, 0):
        image = png(pixels(1, 3, 32, seed=part)[0])
        write_hub(tmp_path / f"test-{part:05}-of-00002.parquet", [image], [part])
    assert cifar10(tmp_path).load(seed=0, train=False).test.labels.tolist() == [0, 1]


def test_a_missing_shard_is_noticed(tmp_path):
    write_hub(tmp_path / "test-00000-of-00002.parquet", [png(pixels(1, 3, 32)[0])], [0])
    with pytest.raises(
        UsageError, match=r"of 2 files like test-00000-of-00002\.parquet there are 1"
    ):
        cifar10(tmp_path).load(seed=0, train=False)


def test_the_shared_folder_is_searched_after_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTPRUNE_DATA", str(tmp_path / "shared"))
    dataset = cifar10("data/cifar10")
    write_split(tmp_path / "shared/cifar10", "test", dataset, 3)
    assert len(dataset.load(seed=0, train=False).test) == 3
    write_split(tmp_path / "shared/data/cifar10", "test", dataset, 4)
    assert len(dataset.load(seed=0, train=False).test) == 4
    write_split(tmp_path / "work/data/cifar10", "test", dataset, 5)
    assert len(dataset.load(seed=0, train=False).test) == 5


def broken_cases():
    good = png(pixels(1, 3, 32)[0])
    return {
        "truncated": ([good[: len(good) // 2]], [0], "row 0: the image is damaged"),
        "no image": ([b"nothing"], [0], "row 0: the image is damaged"),
        "no bytes": ([None], [0], "no image bytes"),
        "size": ([png(pixels(1, 3, 28)[0])], [0], "expected an image of 32×32, found 28×28"),
        "label": ([good, good], [0, 10], "labels must be in 0 … 9, found 0 … 10"),
        "negative": ([good], [-1], "labels must be in 0 … 9, found -1 … -1"),
        "empty": ([], [], "holds no images"),
    }


@pytest.mark.parametrize("case", broken_cases())
def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path, case):
    images, labels, message = broken_cases()[case]
    file = write_hub(tmp_path / "test-00000-of-00001.parquet", images, labels)
    with pytest.raises(UsageError, match=message) as error:
        cifar10(tmp_path).load(seed=0, train=False)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("keep", [0, 100])
def test_a_truncated_parquet_file_is_named(tmp_path, keep):
    file = write_split(tmp_path, "test", cifar10(tmp_path), 3)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UsageError, match="not a readable parquet file") as error:
        cifar10(tmp_path).load(seed=0, train=False)
    assert str(file) in str(error.value)


def test_a_parquet_file_overwritten_in_the_middle_is_named(tmp_path):
    file = write_split(tmp_path, "test", cifar10(tmp_path), 3)
    content = bytearray(file.read_bytes())
    content[4:1000] = bytes(996)
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"test-00000-of-00001\.parquet"):
        cifar10(tmp_path).load(seed=0, train=False)


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path):
    image = png(pixels(1, 3, 32)[0])
    write_hub(tmp_path / "test-0.parquet", [image], [0], label="a", b=[1])
    with pytest.raises(UsageError, match=r"label or labels; .*a \(int64\).* Rename them"):
        cifar10(tmp_path).load(seed=0, train=False)


@pytest.mark.parametrize("name", ["mnist", "svhn", "cifar100"])
def test_the_augmentation_is_the_usual_one(tmp_path, name):
    dataset = datasets.create(name, root=tmp_path)
    write_split(tmp_path, "train", dataset, 2)
    augment = dataset.load(seed=0, test=False).train.augment
    flips = {"mnist": None, "svhn": CropFlip(4, flip=False), "cifar100": CropFlip(4, flip=True)}
    assert augment == flips[name]
