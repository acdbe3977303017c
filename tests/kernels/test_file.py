"""Sparse files: what goes in comes out, and no other file is read, whatever it says."""

import hashlib
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard

from robustprune.kernels.file import FileError, read, write
from robustprune.kernels.operations import Operation

from ..memory import little_memory
from .networks import SHAPE, residual, window

METADATA = {"classes": ["a", "b", "c", "d"], "density": 0.1, "model": {"name": "small"}}


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "net.sparse"
    write(file, residual(), SHAPE, METADATA)
    return file


@pytest.mark.parametrize("density", [0, 0.1, 0.5, 1])
def test_a_network_comes_back_to_the_bit(tmp_path, density):
    before, path = residual(density), tmp_path / "net.sparse"
    write(path, before, SHAPE, METADATA)
    after, shape, metadata = read(path)
    assert (shape, metadata) == (SHAPE, METADATA)
    for one, two in zip(before, after, strict=True):
        assert (one.kind, one.inputs, one.options) == (two.kind, two.inputs, two.options)
        assert one.arrays.keys() == two.arrays.keys()
        for name, array in one.arrays.items():
            assert two.arrays[name].dtype == np.float32
            assert np.array_equal(two.arrays[name], array)


def test_equal_networks_are_equal_files(path, tmp_path):
    write(tmp_path / "other.sparse", residual(), SHAPE, METADATA)
    assert (tmp_path / "other.sparse").read_bytes() == path.read_bytes()


def test_arrays_are_made_when_they_are_asked_for(path):
    arrays = read(path)[0][0].arrays
    arrays["weight"][:] = 7
    assert np.array_equal(arrays["weight"], residual()[0].arrays["weight"])


def test_a_file_takes_little_more_than_what_is_kept(tmp_path):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((512, 512, 3, 3)).astype(np.float32)
    weight *= generator.random(weight.shape) < 0.01
    kept = np.count_nonzero(weight)
    arrays = {"weight": weight, "bias": np.zeros(512, np.float32)}
    write(tmp_path / "a", [Operation("convolution", (0,), window(), arrays)], (512, 2, 2), {})
    # a value of 32 bits, the position of one in a hundred of 8.1
    assert (tmp_path / "a").stat().st_size < 1.0 * kept * (32 + 8.1) / 8


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_not_written(tmp_path, value):
    operations = residual()
    operations[0].arrays["bias"][3] = value
    with pytest.raises(ValueError, match="bias of operation 0"):
        write(tmp_path / "a.sparse", operations, SHAPE, {})
    assert not (tmp_path / "a.sparse").exists()


def test_operations_that_do_not_fit_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"operation 0 \('convolution'\)"):
        write(tmp_path / "a.sparse", residual(), (4, 8, 8), {})


def refused(path: Path, match: str | None = None) -> None:
    with pytest.raises(FileError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_no_file_of_the_format_is_told(tmp_path):
    refused(tmp_path / "none.sparse", "there is no file")
    refused(tmp_path, "is no file")
    for content in (b"", b"rpspars", b"PK\3\4" * 100):
        (tmp_path / "a.sparse").write_bytes(content)
        refused(tmp_path / "a.sparse", "is no file of format sparse")


def test_a_later_version_is_named(path):
    data = bytearray(path.read_bytes())
    data[8] = 2
    path.write_bytes(data)
    refused(path, "version 2 of the format, and version 1 is read here")


def test_any_flipped_bit_and_any_shorter_file_is_refused(path):
    data = path.read_bytes()
    draws = random.Random(0)
    for bit in [*range(8 * 68), *draws.sample(range(8 * 68, 8 * len(data)), 300)]:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        refused(path)
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(path)
    path.write_bytes(data + b"\0")
    refused(path)


def frames(path: Path) -> list[bytes]:
    body = path.read_bytes()[44:]
    lengths = np.frombuffer(body[:24], "<u8").tolist()
    ends = np.cumsum([24, *lengths]).tolist()
    return [body[a:b] for a, b in pairwise(ends)]


def sealed(path: Path, parts: list[bytes]) -> None:
    """A file of these frames, with a digest that fits them."""
    body = np.array([len(part) for part in parts], "<u8").tobytes() + b"".join(parts)
    path.write_bytes(b"rpsparse\1\0\0\0" + hashlib.sha256(body).digest() + body)


def with_manifest(path: Path, text: bytes) -> None:
    sealed(path, [zstandard.compress(text), *frames(path)[1:]])


def manifest_of(path: Path) -> dict:
    return json.loads(zstandard.decompress(frames(path)[0]))


def test_a_file_sealed_anew_without_a_change_is_read(path):
    with_manifest(path, json.dumps(manifest_of(path)).encode())
    assert read(path)[2] == METADATA


def weight(manifest: dict) -> dict:
    return manifest["operations"][0]["arrays"]["weight"]


LIES = {
    "no shape": lambda m: m.pop("shape"),
    "more": lambda m: m.update(colour="red"),
    "a shape of text": lambda m: m.update(shape="388"),
    "a shape of booleans": lambda m: m.update(shape=[3, True, True]),
    "images of any size": lambda m: m.update(shape=[3, 10**9, 10**9]),
    "large images": lambda m: m.update(shape=[3, 8192, 8192]),
    "no operations": lambda m: m.update(operations=[]),
    "operations of none": lambda m: m.update(operations=None),
    "an operation of none": lambda m: m["operations"].append(None),
    "many operations": lambda m: m["operations"].extend(
        [{"kind": "relu", "inputs": [9], "options": {}, "arrays": {}}] * 5000
    ),
    "metadata of a list": lambda m: m.update(metadata=[]),
    "an unknown kind": lambda m: m["operations"][0].update(kind="eval"),
    "a kind of none": lambda m: m["operations"][0].update(kind=None),
    "a kind of a list": lambda m: m["operations"][0].update(kind=["relu"]),
    "a kind of lines": lambda m: m["operations"][0].update(kind="a\nb" * 50),
    "a later input": lambda m: m["operations"][0].update(inputs=[5]),
    "a negative input": lambda m: m["operations"][1].update(inputs=[-1]),
    "an input of text": lambda m: m["operations"][1].update(inputs=["0"]),
    "inputs of none": lambda m: m["operations"][1].update(inputs=None),
    "options of none": lambda m: m["operations"][0].update(options=None),
    "a stride of 0": lambda m: m["operations"][0]["options"].update(stride=[0, 0]),
    "much padding": lambda m: m["operations"][0]["options"].update(padding=[60000, 60000]),
    "more padding": lambda m: m["operations"][0]["options"].update(padding=[10**18] * 2),
    "padding of text": lambda m: m["operations"][0]["options"].update(padding="11"),
    "arrays of none": lambda m: m["operations"][0].update(arrays=None),
    "an array too many": lambda m: m["operations"][1].update(arrays={"weight": weight(m)}),
    "an array too few": lambda m: m["operations"][0]["arrays"].pop("bias"),
    "an entry of none": lambda m: m["operations"][0]["arrays"].update(weight=None),
    "an entry with more": lambda m: weight(m).update(more=1),
    "a huge array": lambda m: weight(m).update(shape=[8, 3, 2**20, 2**20]),
    "a large array": lambda m: weight(m).update(shape=[2**10, 2**10, 2**10, 1]),
    "a larger dimension": lambda m: weight(m).update(shape=[2**40, 1, 1, 1]),
    "many dimensions": lambda m: weight(m).update(shape=[1] * 1000),
    "a dimension of 0": lambda m: weight(m).update(shape=[0, 3, 3, 3]),
    "a dimension of a half": lambda m: weight(m).update(shape=[8, 3, 3, 0.5]),
    "another shape of that size": lambda m: weight(m).update(shape=[3, 8, 3, 3]),
    "another array shape": lambda m: weight(m).update(shape=[8, 3, 3, 5]),
    "more values": lambda m: weight(m).update(kept=weight(m)["kept"] + 1),
    "fewer values": lambda m: weight(m).update(kept=weight(m)["kept"] - 1),
    "negative values": lambda m: weight(m).update(kept=-1),
    "values of text": lambda m: weight(m).update(kept="1"),
    "an unknown coding": lambda m: weight(m).update(coding="runs"),
    "a coding of a list": lambda m: weight(m).update(coding=["gaps"]),
    "another coding": lambda m: weight(m).update(coding="bits"),
    "no coding": lambda m: weight(m).update(coding=None),
    "more positions": lambda m: weight(m).update(position_bytes=weight(m)["position_bytes"] + 1),
    "negative positions": lambda m: weight(m).update(position_bytes=-1),
    "shifted positions": lambda m: (
        weight(m).update(position_bytes=weight(m)["position_bytes"] - 1),
        m["operations"][2]["arrays"]["weight"].update(
            position_bytes=m["operations"][2]["arrays"]["weight"]["position_bytes"] + 1
        ),
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_manifest_that_lies_is_refused(path, lie):
    manifest = manifest_of(path)
    lie(manifest)
    with_manifest(path, json.dumps(manifest).encode())
    with little_memory():
        refused(path, "is damaged")


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[]", b"1", b"null", b'"a"', b"\xff\xfe", b"[" * 100_000),
        b'{"shape":[3,8,8],"operations":[],"metadata":{},"metadata":{}}',
        b'{"shape":[3,8,8],"operations":[],"metadata":{"a":NaN}}',
        b'{"shape":[3,8,8],"operations":[],"metadata":{"a":1e999}}',
        b'{"shape":[3,8,' + b"9" * 5000 + b'],"operations":[],"metadata":{}}',
    ],
    ids=lambda text: text[:20].decode(errors="replace"),
)
def test_a_manifest_of_gibberish_is_refused(path, text):
    with_manifest(path, text)
    refused(path, "is damaged")


def test_frames_that_would_fill_the_memory_are_not_decompressed(path):
    parts = frames(path)
    for number in range(3):
        changed = [*parts]
        changed[number] = zstandard.compress(bytes(2**28))
        sealed(path, changed)
        refused(path, r"would have \d+ bytes|does not have the \d+ bytes")


def test_frames_that_are_none_are_refused(path):
    parts = frames(path)
    whole = zstandard.compress(zstandard.decompress(parts[2]))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10))
    for number in range(3):
        for frame in (b"", b"no zstd", parts[number][:-5], unsized, parts[number] + whole):
            changed = [*parts]
            changed[number] = frame
            sealed(path, changed)
            refused(path, "is damaged")
    path.write_bytes(path.read_bytes()[:44])
    refused(path)


def test_frames_of_other_lengths_are_refused(path):
    body = bytearray(path.read_bytes()[44:])
    for lengths in ([2**64 - 1] * 3, [0, 0, 0], [len(body), 0, 0]):
        body[:24] = np.array(lengths, "<u8").tobytes()
        path.write_bytes(b"rpsparse\1\0\0\0" + hashlib.sha256(body).digest() + body)
        refused(path, "is damaged")


def test_values_that_are_no_numbers_are_refused(path):
    parts = frames(path)
    parts[2] = zstandard.compress(b"\xff" * len(zstandard.decompress(parts[2])))
    sealed(path, parts)
    refused(path, "no finite numbers")


def test_weights_of_nothing_but_zeros_have_a_limit(path):
    manifest = manifest_of(path)
    arrays = {
        "weight": {"shape": [10**5, 10**4], "kept": 0, "coding": "gaps", "position_bytes": 0},
        "bias": {"shape": [10**5], "kept": 0, "coding": "gaps", "position_bytes": 0},
    }
    one = {"kind": "linear", "inputs": [0], "options": {}, "arrays": arrays}
    manifest |= {"shape": [10**4], "operations": [one]}
    sealed(
        path,
        [zstandard.compress(json.dumps(manifest).encode()), *[zstandard.compress(b"")] * 2],
    )
    with little_memory():
        refused(path, "would make 4,000,400,000 bytes of weights")


def test_random_changes_of_what_a_file_says_are_refused_or_read(path):
    """Any other exception is a fault: bytes of all three contents are changed at random."""
    contents = [zstandard.decompress(part) for part in frames(path)]
    draws, found, lines = random.Random(0), {"read": 0, "refused": 0}, []
    for _ in range(800):
        changed = [bytearray(content) for content in contents]
        for _ in range(draws.choice([1, 1, 2, 8])):
            content = changed[draws.choice([0, 0, 0, 1, 2])]
            place = draws.randrange(len(content))
            match draws.randrange(4):
                case 0:
                    content[place] = draws.randrange(256)
                case 1:
                    content[place] = draws.choice(b'0123456789[]{},:"-.etn')
                case 2:
                    del content[place]
                case 3:
                    content.insert(place, draws.choice(b'0123456789[]{},:"-.'))
        sealed(path, [zstandard.compress(bytes(content)) for content in changed])
        try:
            read(path)
        except FileError as error:
            found["refused"] += 1
            lines.append(str(error))
        else:
            found["read"] += 1
    assert all(line.isprintable() for line in lines)
    assert min(found.values()) > 0
