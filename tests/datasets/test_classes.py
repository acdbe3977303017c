"""Labels mean the same in every split and in the network: classes are known by their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from robustprune import datasets
from robustprune.datasets import Dataset
from robustprune.errors import InvalidError, UsageError

COLOURS = {name: 20 * number for number, name in enumerate("abcdefgh", start=1)}
"""The grey of each class's images: the label of an image can be told by it."""


def write(root: Path, **splits: Sequence[str]) -> Path:
    for split, names in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            grey = COLOURS.get(name, 250)
            Image.new("RGB", (8, 8), (grey,) * 3).save(root / split / name / "x.png")
    return root


def folder(root: Path, **options: Any) -> Dataset:
    small = {"root": root, "size": 8, "resize": 8, "workers": 0, "augment": False}
    return datasets.create("imagefolder", **{**small, **options})


def labels(source: Any) -> dict[str, int]:
    """The label of each class that has an image."""
    (batch,) = source.ordered(64)
    greys = (batch.images[:, 0, 0, 0] * 255).round().int().tolist()
    names = {grey: name for name, grey in COLOURS.items()}
    return dict(zip((names[grey] for grey in greys), batch.labels.tolist(), strict=True))


def test_the_folders_are_the_classes_and_their_names_are_kept(tmp_path: Path) -> None:
    splits = folder(write(tmp_path, train="bca", val="abc")).load(seed=0)
    assert splits.class_names == ("a", "b", "c")
    assert splits.num_classes == 3
    assert labels(splits.train) == labels(splits.test) == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("classes", "train", "val", "message"),
    [
        (None, "abc", "bcd", "d not among them, a missing"),
        (3, "abc", "bcd", "d not among them, a missing"),
        (None, "abc", "ab", "c missing"),
        (3, "abc", "abcd", "d not among them"),
    ],
)
def test_splits_of_other_classes_are_refused(
    train: str, val: str, message: str, classes: int | None, tmp_path: Path
) -> None:
    dataset = folder(write(tmp_path, train=train, val=val), classes=classes)
    with pytest.raises(UsageError, match=message) as error:
        dataset.load(seed=0)
    assert "val: its classes (folders) are not those of" in str(error.value)
    with pytest.raises(UsageError, match=message):
        dataset.load(seed=0, train=False)


def test_names_that_are_given_are_the_labels(tmp_path: Path) -> None:
    root = write(tmp_path, train="abc", val="ca")
    (tmp_path / "names.txt").write_text("c\n\n b \na\nd\n")
    for classes in (["c", "b", "a", "d"], tmp_path / "names.txt"):
        splits = folder(root, classes=classes).load(seed=0)
        assert splits.class_names == ("c", "b", "a", "d")
        assert labels(splits.train) == {"a": 2, "b": 1, "c": 0}
        assert labels(splits.test) == {"a": 2, "c": 0}
    with pytest.raises(UsageError, match=r"data\.classes: b not among them"):
        folder(root, classes=["a", "c"]).load(seed=0)


@pytest.mark.parametrize("classes", [1, [], ["a"], ["a", "b", "a"]])
def test_names_that_tell_nothing_apart_are_refused(classes: Any) -> None:
    with pytest.raises(InvalidError, match="classes"):
        datasets.create("imagefolder", classes=classes)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\na\n", b"", None])
def test_a_file_of_no_names_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"names\.txt"):
        folder(write(tmp_path, train="ab", val="ab"), classes=file).load(seed=0)


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    root = write(tmp_path, train=[".ipynb_checkpoints", "a", "b"], val="ab")
    assert labels(folder(root).load(seed=0).train) == {"a": 0, "b": 1}


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, train="ab", val="ab")
    (root / "val" / "b" / "x.png").unlink()
    with pytest.raises(UsageError, match=r"val.b: no images in it"):
        folder(root).load(seed=0)


NETWORK = ["d", "c", "b", "a"]


@pytest.mark.parametrize(
    ("given", "splits"),
    [
        (None, {"val": "abc"}),
        (3, {"train": "abc", "val": "abc"}),
        (["a", "b", "c"], {"val": "abc"}),
    ],
)
def test_folders_get_the_labels_of_the_network(
    given: Any, splits: dict[str, str], tmp_path: Path
) -> None:
    dataset = folder(write(tmp_path, **splits), classes=given).for_network(NETWORK)
    found = dataset.load(seed=0, train=False)
    assert found.num_classes == 4
    assert labels(found.test) == {"a": 3, "b": 2, "c": 1}


def test_what_the_network_does_not_know_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, val="abe")
    with pytest.raises(UsageError, match=r"classes are d, c, b, a; .* are a, b, e: e not among"):
        folder(root).for_network(NETWORK)
    with pytest.raises(UsageError, match="e not among"):
        folder(root, classes=["a", "b", "e", "c"]).for_network(NETWORK)


def test_other_names_that_were_given_count_by_their_places(tmp_path: Path) -> None:
    root = write(tmp_path, val="efgh")
    with pytest.raises(UsageError, match="e, f, g, h not among"):
        folder(root).for_network(NETWORK)
    dataset = folder(root, classes=["h", "g", "f", "e"]).for_network(NETWORK)
    assert labels(dataset.load(seed=0, train=False).test) == {"h": 0, "g": 1, "f": 2, "e": 3}


@pytest.mark.parametrize("name", sorted(set(datasets.names()) - {"imagefolder"}))
def test_a_dataset_of_fixed_classes_is_compared_in_order(name: str) -> None:
    dataset = datasets.create(name)
    own = dataset.class_names
    assert len(set(own)) == dataset.num_classes
    assert dataset.for_network(own) is dataset
    for others in (own[::-1], own[:-1], [*own, "more"], ["x", *own[1:]]):
        with pytest.raises(UsageError, match=f"those of dataset '{name}'") as raised:
            dataset.for_network(others)
        permuted = sorted(others) == sorted(own)  # names cannot help where labels are fixed
        assert ("--classes" not in str(raised.value)) == permuted


def test_an_image_that_would_grow_too_long_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, train="ab", val="ab")
    Image.new("RGB", (1, 60_000)).save(root / "val" / "b" / "x.png")
    dataset = folder(root, size=64, resize=64)
    with pytest.raises(UsageError, match=r"60000×1 is too narrow"):
        list(dataset.load(seed=0, train=False).test.ordered(4))


def test_options_are_json(tmp_path: Path) -> None:
    dataset = folder(tmp_path, classes=tmp_path / "names.txt")
    assert json.loads(dataset.model_dump_json())["classes"] == str(tmp_path / "names.txt")
