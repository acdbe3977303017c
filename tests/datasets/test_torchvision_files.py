"""The files that torchvision downloads. Its check of their published MD5 sums is switched off."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
import torch
import torchvision.datasets
from scipy.io import savemat

from robustprune import datasets
from robustprune.errors import UsageError

from .fakes import pixels, write_split


def write_cifar(root, name, key):
    folder = root / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    folder.mkdir(parents=True)
    images = pixels(4, 3, 32)
    flat = images.transpose(0, 3, 1, 2).reshape(4, -1)
    (folder / "batch").write_bytes(pickle.dumps({"data": flat, key: [3, 1, 2, 0]}))
    (folder / "meta").write_bytes(pickle.dumps({"names": ["a"]}))
    return folder, images


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar(tmp_path, monkeypatch, name, key):
    folder, images = write_cifar(tmp_path, name, key)
    schema = getattr(torchvision.datasets, name.upper())
    monkeypatch.setattr(schema, "train_list", [["batch", None]])
    monkeypatch.setattr(schema, "test_list", [["batch", None]])
    monkeypatch.setattr(schema, "meta", {"filename": "meta", "key": "names", "md5": None})
    splits = datasets.create(name, root=folder.parent, download=False).load(seed=0)
    for source in (splits.train, splits.test):
        assert torch.equal(source.images, torch.from_numpy(images).permute(0, 3, 1, 2))
        assert source.labels.tolist() == [3, 1, 2, 0]


def test_mnist(tmp_path):
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    images = pixels(3, 1, 28)
    for split in ("train", "t10k"):
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, 3, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">BBBBI", 0, 0, 8, 1, 3)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + bytes([7, 0, 9]))
    splits = datasets.create("mnist", root=tmp_path, download=False).load(seed=0)
    for source in (splits.train, splits.test):
        assert torch.equal(source.images, torch.from_numpy(images).permute(0, 3, 1, 2))
        assert source.labels.tolist() == [7, 0, 9]
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(
        UsageError, match=r"dataset 'mnist': .*t10k-images-idx3-ubyte cannot be read"
    ):
        datasets.create("mnist", root=tmp_path, download=False).load(seed=0)


def test_svhn_has_the_label_0_for_the_digit_0(tmp_path, monkeypatch):
    images = pixels(3, 3, 32)
    content = {"X": images.transpose(1, 2, 3, 0), "y": np.array([[10], [1], [9]])}
    savemat(tmp_path / "test_32x32.mat", content)
    files = {"test": ["", "test_32x32.mat", None]}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    test = datasets.create("svhn", root=tmp_path, download=False).load(seed=0, train=False).test
    assert test.labels.tolist() == [0, 1, 9]
    assert torch.equal(test.images, torch.from_numpy(images).permute(0, 3, 1, 2))


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_pickles_without_the_published_sums_are_not_opened(tmp_path, name, key):
    folder, _ = write_cifar(tmp_path, name, key)
    with pytest.raises(UsageError, match=f"dataset '{name}': {folder} cannot be read"):
        datasets.create(name, root=tmp_path, download=False).load(seed=0)


def test_parquet_files_come_first(tmp_path):
    dataset = datasets.create("cifar10", root=tmp_path)
    write_cifar(tmp_path, "cifar10", "labels")
    write_split(tmp_path, "test", dataset, 2)
    assert len(dataset.load(seed=0, train=False).test) == 2


@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn"])
def test_a_failed_download_says_what_was_tried_and_where(name, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    schema = getattr(torchvision.datasets, name.upper())
    monkeypatch.setattr(schema, "download", fail)
    with pytest.raises(
        UsageError, match=r"(?s)training images were not found.*no network"
    ) as error:
        datasets.create(name, root=tmp_path / "gone").load(seed=0)
    assert str(tmp_path / "gone") in str(error.value)
    assert "Hugging Face" in str(error.value)
