"""A packed file that is not whole, not ours, or of another network is refused."""

import hashlib
import json
import math
import random
from pathlib import Path

import pytest
import torch
import zstandard
from safetensors import safe_open
from safetensors.torch import save_file

from robustprune.artifacts.backends.packed import STREAMS, Packed
from robustprune.artifacts.checksummed import KEY, canonical
from robustprune.artifacts.reading import read_model
from robustprune.errors import UsageError
from tests.artifacts.nets import DIGITS, document, flipped, header, saved


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "net.safetensors"
    Packed().write(saved(), file)
    return file


def test_any_flipped_bit_is_refused(path):
    data = path.read_bytes()
    head = range(8 * (8 + len(header(path))))
    body = random.Random(0).sample(range(head[-1] + 1, 8 * len(data)), 100)
    for bit in [*head[::11], *body]:
        path.write_bytes(flipped(data, bit))
        with pytest.raises(UsageError):
            read_model(path)


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_a_truncated_file_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        read_model(path)


def seal(frames: dict[str, bytes], version: int = 1) -> str:
    digest = hashlib.sha256(b"".join(frames[name] for name in STREAMS)).hexdigest()
    return canonical({"format": "packed", "sha256": digest, "version": version})


def resealed(path: Path, change, version: int = 1) -> None:
    """The same file with another manifest, and a digest that fits it."""
    with safe_open(path, framework="pt") as file:
        frames = {name: file.get_tensor(name).numpy().tobytes() for name in STREAMS}
    manifest = json.loads(zstandard.decompress(frames["manifest"]))
    change(manifest, frames)
    if "manifest" not in change.__annotations__:
        frames["manifest"] = zstandard.compress(json.dumps(manifest).encode())
    tensors = {n: torch.frombuffer(bytearray(f), dtype=torch.uint8) for n, f in frames.items()}
    save_file(tensors, path, metadata={KEY: seal(frames, version)})


# the second tensor is 0.weight, which is pruned


def another_architecture(manifest, frames):
    manifest["metadata"]["model"] = {**DIGITS, "num_classes": 7}


def unknown_architecture(manifest, frames):
    manifest["metadata"]["model"] = {"name": "cnn_digit"}


def no_metadata(manifest, frames):
    del manifest["metadata"]


def metadata_of_another_kind(manifest, frames):
    manifest["metadata"] = [1]


def another_checksum(manifest, frames):
    manifest["tensors"][1]["crc32"] += 1


def another_mask(manifest, frames):
    manifest["tensors"][1]["mask"] = False


def one_value_more(manifest, frames):
    manifest["tensors"][1]["count"] += 1


def too_many_values(manifest, frames):
    manifest["tensors"][1]["count"] = 10**15


def a_huge_shape(manifest, frames):
    manifest["tensors"][1]["shape"] = [10**18, 10**18]


def no_shape(manifest, frames):
    del manifest["tensors"][1]["shape"]


def a_negative_length(manifest, frames):
    manifest["tensors"][1]["position_bytes"] = -1


def an_unknown_type(manifest, frames):
    manifest["tensors"][1]["stored"] = "F8"


def an_unknown_key(manifest, frames):
    manifest["tensors"][1]["colour"] = "red"


def an_unknown_coding(manifest, frames):
    manifest["tensors"][1]["coding"] = "runs"


def a_tensor_less(manifest, frames):
    del manifest["tensors"][0]


def the_same_tensor_twice(manifest, frames):
    manifest["tensors"].append(manifest["tensors"][-1])


def longer_positions(manifest, frames):
    frames["positions"] = zstandard.compress(zstandard.decompress(frames["positions"]) + b"\0")


def no_frame(manifest, frames):
    frames["values"] = b"not zstd"


def a_frame_that_ends_early(manifest, frames):
    frames["values"] = frames["values"][:-5]


def a_mask_without_positions(manifest, frames):
    manifest["tensors"][0]["mask"] = True


def a_mask_that_is_text(manifest, frames):
    manifest["tensors"][1]["mask"] = "no"


def a_name_that_is_none(manifest, frames):
    manifest["tensors"][1]["name"] = [1]


def a_shape_of_booleans(manifest, frames):
    manifest["tensors"][0]["shape"] = [True] * len(manifest["tensors"][0]["shape"])


def another_type(manifest, frames):
    manifest["tensors"][0]["dtype"] = "I32"  # of the same bytes


def positions_of_what_has_none(manifest, frames):
    manifest["tensors"][0]["position_bytes"] = 1


def positions_longer_than_any(manifest, frames):
    entry = manifest["tensors"][1]
    entry["position_bytes"] = entry["count"] + math.prod(entry["shape"])


def no_entry(manifest, frames):
    manifest["tensors"][1] = None


def a_number_that_json_has_not(manifest, frames):
    manifest["metadata"]["density"] = float("nan")


CHANGES = [
    *(a_mask_without_positions, a_mask_that_is_text, a_name_that_is_none, a_shape_of_booleans),
    *(another_type, positions_of_what_has_none, positions_longer_than_any, no_entry),
    a_number_that_json_has_not,
    *(another_architecture, unknown_architecture, no_metadata, metadata_of_another_kind),
    *(another_checksum, another_mask, one_value_more, too_many_values, a_huge_shape, no_shape),
    *(a_negative_length, an_unknown_type, an_unknown_key, an_unknown_coding, a_tensor_less),
    *(the_same_tensor_twice, longer_positions, no_frame, a_frame_that_ends_early),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_made_to_deceive_is_refused(path, change):
    resealed(path, change)
    with pytest.raises(UsageError):
        read_model(path)


def test_a_file_resealed_without_a_change_is_read(path):
    resealed(path, lambda manifest, frames: None)
    assert read_model(path).metadata == document()


def test_a_manifest_of_gibberish_is_refused(path):
    def gibberish(manifest: None, frames) -> None:
        frames["manifest"] = zstandard.compress(b"{")

    resealed(path, gibberish)
    with pytest.raises(UsageError, match="is damaged"):
        read_model(path)


def test_nothing_is_decompressed_beyond_what_the_network_takes(path):
    def bomb(manifest, frames) -> None:
        frames["values"] = zstandard.compress(bytes(2**28))

    resealed(path, bomb)
    with pytest.raises(UsageError, match=r"does not have the .* bytes that its tensors take"):
        read_model(path)


def test_a_manifest_that_would_fill_the_memory_is_refused(path):
    def longer(manifest: None, frames) -> None:
        frames["manifest"] = zstandard.compress(bytes(2**23))

    resealed(path, longer)
    with pytest.raises(UsageError, match=r"its manifest would have \d+ bytes"):
        read_model(path)


def test_a_later_version_is_named(path):
    resealed(path, lambda manifest, frames: None, version=3)
    with pytest.raises(UsageError, match="version 3 of the format, and this robustprune reads"):
        read_model(path)


def test_streams_of_another_type_are_refused(tmp_path):
    document = json.dumps({"format": "packed", "sha256": "", "version": 1})
    for streams in ({name: torch.ones(2) for name in STREAMS}, {"a": torch.ones(1)}):
        save_file(streams, tmp_path / "a.safetensors", metadata={KEY: document})
        with pytest.raises(UsageError, match="its streams are no bytes"):
            read_model(tmp_path / "a.safetensors")
