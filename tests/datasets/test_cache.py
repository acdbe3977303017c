"""Decoded images are kept, and known again by their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from robustprune.datasets import parquet
from robustprune.types import Images

from .fakes import pixels, png, write_hub


@pytest.fixture(autouse=True)
def _small_is_worthwhile(monkeypatch):
    monkeypatch.setattr(parquet, "WORTHWHILE", 1)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "x.parquet", 1)


def write(file: Path, label: int) -> Path:
    """A file of one image whose size and time of change do not tell what its label is."""
    write_hub(file, [png(pixels(1, 3, 8)[0])], [label])
    os.utime(file, ns=(0, 0))
    return file


def read(file: Path, classes: int = 10) -> Images:
    return parquet.read([file], channels=3, size=8, num_classes=classes)


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_second_time_nothing_is_decoded(source):
    first = read(source)
    size = source.stat().st_size
    second = read(write(source, 2))
    assert source.stat().st_size == size
    assert first.labels.tolist() == second.labels.tolist() == [1]
    assert torch.equal(first.images, second.images)


def test_a_changed_file_or_option_is_decoded_anew(source, tmp_path):
    read(source)
    write(source, 2)
    assert read(source, classes=11).labels.tolist() == [2]
    os.utime(source, ns=(1, 1))
    assert read(source).labels.tolist() == [2]
    write_hub(source, [png(image) for image in pixels(2, 3, 8)], [3, 3])
    os.utime(source, ns=(0, 0))
    assert read(source).labels.tolist() == [3, 3]
    assert len(kept(tmp_path)) == 4
    assert {path.suffix for path in kept(tmp_path)} == {".safetensors"}


@pytest.mark.parametrize("damage", ["empty", "short"])
def test_a_damaged_copy_is_ignored_and_replaced(source, tmp_path, damage):
    read(source)
    (file,) = kept(tmp_path)
    content = file.read_bytes()
    file.write_bytes({"empty": b"", "short": content[:-3]}[damage])
    assert read(source).labels.tolist() == [1]
    assert file.read_bytes() == content


def test_an_unusable_cache_folder_costs_time_only(source, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("ROBUSTPRUNE_CACHE", str(blocked))
    read(source)
    assert read(write(source, 2)).labels.tolist() == [2]


def test_an_empty_variable_turns_it_off(source, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTPRUNE_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    read(source)
    assert not (tmp_path / "home").exists()
    assert not (Path.cwd() / "images").exists()


def test_few_images_are_not_kept(source, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "WORTHWHILE", 2)
    read(source)
    assert not (tmp_path / "cache").exists()
