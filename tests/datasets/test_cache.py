from __future__ import annotations

import os

import pytest
import torch

from robustprune.datasets import cache
from robustprune.types import Images


@pytest.fixture(autouse=True)
def _small_is_worthwhile(monkeypatch):
    monkeypatch.setattr(cache, "WORTHWHILE", 1)


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "source"
    file.write_bytes(b"encoded")
    return file


class Decoder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Images:
        self.calls += 1
        images = torch.arange(48, dtype=torch.uint8).reshape(4, 3, 2, 2)
        return Images(images + self.calls, torch.arange(4))


def kept(tmp_path):
    return list((tmp_path / "cache").rglob("*"))[-1]


def test_the_second_time_nothing_is_decoded(source):
    decode = Decoder()
    first, second = (cache.cached([source], 1, decode) for _ in range(2))
    assert decode.calls == 1
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


def test_a_changed_file_or_option_is_decoded_anew(source):
    decode = Decoder()
    cache.cached([source], 1, decode)
    cache.cached([source], 2, decode)
    assert decode.calls == 2
    os.utime(source, ns=(0, 0))
    cache.cached([source], 1, decode)
    assert decode.calls == 3
    source.write_bytes(b"longer than before")
    os.utime(source, ns=(0, 0))
    cache.cached([source], 1, decode)
    assert decode.calls == 4


@pytest.mark.parametrize("damage", ["empty", "short", "flipped"])
def test_a_damaged_copy_is_ignored_and_replaced(source, tmp_path, damage):
    decode = Decoder()
    cache.cached([source], 1, decode)
    file = kept(tmp_path)
    content = file.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes({"empty": b"", "short": content[:-3], "flipped": flipped}[damage])
    assert torch.equal(cache.cached([source], 1, decode).labels, torch.arange(4))
    assert decode.calls == 2
    cache.cached([source], 1, decode)
    assert decode.calls == 2


def test_only_whole_files_are_left_behind(source, tmp_path):
    cache.cached([source], 1, Decoder())
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in files] == [".safetensors"]


def test_an_unusable_cache_folder_costs_time_only(source, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("ROBUSTPRUNE_CACHE", str(blocked))
    decode = Decoder()
    for _ in range(2):
        cache.cached([source], 1, decode)
    assert decode.calls == 2


def test_an_empty_variable_turns_it_off(source, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTPRUNE_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cache.cached([source], 1, Decoder())
    assert not (tmp_path / "home").exists()


def test_few_images_are_not_kept(source, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "WORTHWHILE", 5)
    cache.cached([source], 1, Decoder())
    assert not (tmp_path / "cache").exists()
