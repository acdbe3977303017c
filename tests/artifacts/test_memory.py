"""Small files that would take much memory: they are refused before they do."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustprune.artifacts import backends
from robustprune.artifacts.backends.packed import Packed
from robustprune.artifacts.checksummed import KEY, ModelFile, write_checksummed
from robustprune.artifacts.hydra import read_hydra
from robustprune.artifacts.pickles import read_pickle
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import UsageError
from robustprune.models import create_model
from tests.artifacts.nets import DIGITS, document, pruned, saved, saved_to
from tests.artifacts.test_packed_damaged import resealed
from tests.memory import little_memory


def refused(read, path: Path, *args, match: str, **options) -> None:
    with little_memory(), pytest.raises(UsageError, match=match):
        read(path, *args, **options)


HUGE = {
    "many classes": ({**DIGITS, "num_classes": 10**6}, "has shape"),
    "more classes than anybody": ({**DIGITS, "num_classes": 10**12}, "has shape"),
    "large images": ({**DIGITS, "image_size": 3000}, "has shape"),
    "many channels": ({**DIGITS, "in_chans": 10**4}, "has shape"),
    "many layers": ({"name": "resnet18", "layers": [2000] * 4}, "has more than .* parameters"),
    "a deep network": ({"name": "vit_tiny_patch16_224", "depth": 10**10}, r"model\.depth is 10,"),
    "more channels than anybody": ({**DIGITS, "in_chans": 10**9}, r"model\.in_chans is 1,000,"),
    "a deeper network": ({"name": "vit_tiny_patch16_224", "depth": 10**4}, "has more than"),
    "a wide network": ({"name": "vit_tiny_patch16_224", "embed_dim": 6 * 10**4}, "is missing"),
}


ROWS = [("run", case) for case in HUGE]
ROWS += [(f, c) for f in ("dense", "packed", "onnx") for c in ("many classes", "many layers")]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "case"), ROWS)
def test_an_architecture_is_compared_before_it_is_built(tmp_path, format, case):
    architecture, match = HUGE[case]
    path = renamed(tmp_path, format, architecture)
    refused(read_model, path, match=match)


def renamed(folder: Path, format: str, architecture: dict) -> Path:
    """A file of a small network, with right checksums, that says it is of another architecture."""
    network = saved()
    if format == "onnx":
        return onnx_of(folder / "a.onnx", network, architecture)
    path, metadata = folder / "a.safetensors", {**network.metadata, "model": architecture}
    if format == "run":
        return saved_to(path, SavedModel(network.model, network.masks, metadata))
    if format == "packed":
        Packed().write(SavedModel(network.model, network.masks, metadata), path)
        return path
    backends.create("dense").export(network, path)
    said, tensors = ModelFile(path).checksummed()
    write_checksummed(path, tensors, {**said, "model": architecture})
    return path


def onnx_of(path: Path, network: SavedModel, architecture: dict) -> Path:
    onnx = pytest.importorskip("onnx", reason="pip install 'robustprune[onnx]'")
    from robustprune.artifacts.backends.onnx import digest_of

    tensors = [
        onnx.numpy_helper.from_array(t.numpy(), n) for n, t in network.model.state_dict().items()
    ]
    proto = onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(initializer=tensors))
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps({**document(), "model": architecture, "masked": []})
    content = proto.SerializeToString()
    path.write_bytes(content + digest_of(content))
    return path


def test_a_packed_network_of_nothing_but_zeros_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    Packed().write(saved(), path)

    def grow(manifest, frames) -> None:
        manifest["metadata"]["model"] = {**DIGITS, "num_classes": 10**6}
        for entry in manifest["tensors"][-2:]:
            entry["shape"][0] = 10**6  # its positions end where they did

    resealed(path, grow)
    refused(read_model, path, match="would take .* bytes of memory")


def test_a_packed_tensor_that_is_listed_often_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    Packed().write(saved(), path)
    resealed(path, lambda m, _: m.update(tensors=m["tensors"] + [m["tensors"][-1]] * 1000))
    refused(read_model, path, match="does not have the")


def test_what_no_file_keeps_is_counted_too(tmp_path):
    swin = {"name": "swin_tiny_patch4_window7_224", "embed_dim": 12, "depths": [2, 2]}
    swin |= {"num_heads": [1, 2], "num_classes": 2, "in_chans": 3, "image_size": 224}
    model, path = create_model(**swin).eval(), tmp_path / "a.safetensors"
    saved_to(path, SavedModel(model, {}, {"model": swin}))
    expected, found = model.state_dict(), read_model(path).model
    assert all(torch.equal(expected[n], t) for n, t in found.state_dict().items())
    images = torch.rand(1, 3, 224, 224)
    assert torch.equal(found(images), model(images))  # with buffers that are in no file
    saved_to(path, SavedModel(model, {}, {"model": {**swin, "image_size": 7000}}))
    refused(read_model, path, match="would take .* bytes of memory")


def test_metadata_without_end_is_not_parsed(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata={KEY: f"[{'[],' * 3_000_000}[]]"})
    refused(read_model, path, match="longer than .* characters")


# Files of torch.save


def archive(path: Path, change) -> Path:
    """A zip of torch.save with other records: ``change`` gets them in order, and a new zip."""
    content = io.BytesIO()
    torch.save({"state_dict": pruned()[0].state_dict()}, content)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w") as new:
        records = {record.filename: old.read(record) for record in old.infolist()}
        change(records, new)
    return path


def structure(path: Path, pickled: bytes) -> Path:
    """A zip of torch.save whose structure is another pickle."""

    def change(records, new) -> None:
        for name, content in records.items():
            new.writestr(name, pickled if name.endswith("data.pkl") else content)

    return archive(path, change)


@pytest.mark.slow
def test_compressed_records_are_not_inflated(tmp_path):
    def change(records, new) -> None:
        for name, content in records.items():
            if name.endswith("data.pkl"):
                content = b"\x80\x02" + b"N0" * 2**26 + content[2:]  # None, dropped again
            new.writestr(name, content, zipfile.ZIP_DEFLATED)

    path = archive(tmp_path / "a.pt", change)
    assert path.stat().st_size < 2**20
    refused(read_pickle, path, match="its records are compressed")


def test_a_record_that_is_listed_often_is_not_read_often(tmp_path):
    def change(records, new) -> None:
        for name, content in records.items():
            new.writestr(name, content)
        largest = max(new.infolist(), key=lambda info: info.file_size)
        for number in range(200):
            again = zipfile.ZipInfo(f"archive/data/again-{number}")
            for slot in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(again, slot, getattr(largest, slot))
            new.filelist.append(again)

    refused(read_pickle, archive(tmp_path / "a.pt", change), match="its records share bytes")


def test_a_structure_without_end_is_not_read(tmp_path):
    text = b"X" + (2**20).to_bytes(4, "little") + bytes(2**20) + b"0"  # dropped again
    pickled = b"\x80\x02" + text * 9 + b"}."
    refused(read_pickle, structure(tmp_path / "a.pt", pickled), match="is longer than")
    (tmp_path / "b.pt").write_bytes(pickled)
    refused(read_pickle, tmp_path / "b.pt", match="is longer than")


class Calls:
    """A pickle of it calls something."""

    def __init__(self, function, *arguments) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


VOID = Calls(np.float64(0).__reduce__()[0], Calls(np.dtype, f"V{2**31 - 1}", False, True))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "match"),
    [
        (Calls(bytearray, 2**33), r"asks to call '\w+\.bytearray'"),
        (Calls(torch.FloatTensor, 2**33), r"asks to call 'torch\.FloatTensor'"),
        (Calls(torch.UntypedStorage, 2**33), "holds more than data"),
        (VOID, "holds more than data"),
    ],
    ids=["bytes", "a tensor", "a storage", "a scalar"],
)
def test_memory_cannot_be_asked_for_by_a_number(tmp_path, zipped, value, match):
    content = {"state_dict": dict(pruned()[0].state_dict()), "epoch": value}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    refused(read_pickle, tmp_path / "a.pt", match=match)


def test_bytes_cannot_be_encoded_again_and_again(tmp_path):
    def text(content: bytes) -> bytes:
        return b"X" + len(content).to_bytes(4, "little") + content

    pickled = b"\x80\x02c_codecs\nencode\nq\x00" + text(b"heX_Codec") + b"q\x01"
    pickled += b"h\x00" + text(b"x" * 100) + text(b"latin1") + b"\x86Rq\x02"
    pickled += b"h\x00h\x02h\x01\x86Rq\x02" * 30 + b"."
    refused(read_pickle, structure(tmp_path / "a.pt", pickled), match="encodes bytes as more")


def stretched(size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return torch.ones(64).as_strided(size, stride)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "tensor",
    [stretched((10**6, 1024), (0, 0)), stretched((10**7, 64), (0, 1))],
    ids=["one element", "one row"],
)
def test_a_tensor_is_not_stretched_beyond_what_is_there(tmp_path, zipped, tensor):
    content = {"arch": "cifar_model", "state_dict": {"8.weight": tensor, "8.bias": tensor[:, 0]}}
    torch.save(content, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    refused(read_hydra, tmp_path / "a.pth.tar", match="would take .* bytes of memory")
    options = {**DIGITS, "num_classes": 10**6}
    refused(read_model, tmp_path / "a.pth.tar", options, match="would take .* bytes of memory")


def test_a_tensor_is_no_longer_than_its_record(tmp_path):
    content, path = io.BytesIO(), tmp_path / "a.pt"
    torch.save({"weight": torch.ones(2**16)}, content)
    longer = pickle.dumps(2**30, protocol=2)[2:-1]  # the number alone
    shorter = pickle.dumps(2**16, protocol=2)[2:-1]
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w") as new:
        for record in old.infolist():
            found = old.read(record)
            if record.filename.endswith("data.pkl"):
                assert found.count(shorter) == 2  # elements of the storage, and of the tensor
                found = found.replace(shorter, longer)
            new.writestr(record.filename, found)
    refused(read_pickle, path, match="is not a whole file|holds more than data")


@pytest.mark.slow
def test_honest_files_are_read_within_little_more_than_their_size(tmp_path):
    model, path = create_model("wrn_28_4"), tmp_path / "a.pt"
    torch.save(model.state_dict(), path)
    with little_memory():
        found = read_model(path, {"name": "wrn_28_4"}).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
