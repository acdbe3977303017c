"""Small files that say they are large: refused before memory is taken for them."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustprune.datasets import files, parquet
from robustprune.datasets.extra import Extra, read_arrays
from robustprune.errors import UsageError

from .fakes import pixels, png, write_hub

FITS = {"channels": 3, "size": 32, "num_classes": 10}
MIB = 2**20


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is what it is; a smaller one lets tests be small."""
    monkeypatch.setattr(files, "FREE", MIB)


@contextmanager
def sparing(most: int) -> Iterator[None]:
    """No more bytes are taken by Python and by arrow at any moment of the block."""
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] + pool.max_memory() < most
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def extra(file: Path) -> Any:
    return Extra(path=file).load(**FITS)


def zipped(file: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file


def array(shape: tuple[int, ...], data: bytes, dtype: str = "|u1") -> bytes:
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


LABELS = array((4,), bytes(4))


def npz(folder: Path) -> dict[str, Path]:
    count = 10 * MIB // 3072
    honest = array((count, 3, 32, 32), bytes(count * 3072))
    huge = (10**12, 3, 32, 32)
    return {
        "zeros": zipped(folder / "a.npz", images=honest, labels=LABELS),
        "labels": zipped(folder / "b.npz", images=LABELS, labels=array((len(honest),), honest)),
        "a header that lies": zipped(folder / "c.npz", images=array(huge, b"1"), labels=LABELS),
        "a negative size": zipped(folder / "d.npz", images=array((-1, 3), b""), labels=LABELS),
    }


@pytest.mark.parametrize("kind", ["zeros", "labels", "a header that lies", "a negative size"])
def test_an_archive_that_says_it_is_large(kind: str, tmp_path: Path) -> None:
    file = npz(tmp_path)[kind]
    assert file.stat().st_size < MIB
    refused = pytest.raises(UsageError, match=r"\.npz: .*(would take|says|readable)")
    with sparing(2 * MIB), refused:
        extra(file)


def rows(folder: Path) -> dict[str, Path]:
    image = png(pixels(1, 3, 32)[0])
    long = image + bytes(5 * MIB)
    names = {"image": pa.array([image] * 6_000, pa.binary()), "label": pa.array([0] * 6_000)}
    pq.write_table(pa.table(names), folder / "repeated.parquet", compression="zstd")
    kind = pa.table({"image": pa.array([long], pa.binary()), "label": pa.array([0])})
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}
    pq.write_table(kind, folder / "zeros.parquet", **options)
    many = pa.table({"image": pa.array([image] * 9, pa.binary()), "label": pa.array([0] * 9)})
    pq.write_table(many, folder / "lies.parquet", **options)
    return {path.stem: path for path in folder.glob("*.parquet")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["repeated", "zeros"])
def test_a_parquet_file_that_says_it_is_large(kind: str, tmp_path: Path) -> None:
    file = rows(tmp_path)[kind]
    assert file.stat().st_size < MIB
    refused = pytest.raises(UsageError, match=r"\.parquet: .* would take [\d,]+ bytes")
    with sparing(2 * MIB), refused:
        parquet.read([file], **FITS)


def test_the_headers_of_pages_count_and_not_the_sum_in_the_metadata(tmp_path: Path) -> None:
    file = rows(tmp_path)["lies"]
    metadata = pq.read_metadata(file)
    column = metadata.row_group(0).column(0)
    sizes = list(parquet.page_sizes(file, metadata, ["image"]))
    assert 0 < sum(sizes) < column.total_uncompressed_size  # which counts headers, too
    content = bytearray(file.read_bytes())
    start = column.data_page_offset
    old, new = (varint(size * 2) for size in (sizes[0], 2**31 - 1))
    place = content.index(old, start)
    content[place : place + len(old)] = new
    file.write_bytes(content)
    assert next(parquet.page_sizes(file, metadata, ["image"])) == 2**31 - 1
    with sparing(2 * MIB), pytest.raises(UsageError, match="not a readable parquet file"):
        parquet.read([file], **FITS)


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


@pytest.mark.slow
def test_a_repeated_image_is_read_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of 1 MiB that stands for 99 rows."""
    monkeypatch.setattr(parquet, "HELD", 4 * MIB)
    image = png(pixels(1, 3, 32)[0]) + bytes(MIB)
    file = write_hub(tmp_path / "x.parquet", [image] * 99, [1] * 99)
    with sparing(24 * MIB):
        assert len(parquet.read([file], **FITS).labels) == 99


GLOBAL = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


PICKLES = {
    "an array of any size": pickled(GLOBAL, number(10**10), b"\x85R"),
    "a scalar without bytes": pickled(
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n", b"X\x09\0\0\0V99999999\x85R", b"\x85R"
    ),
    "a note of a high number": pickled(b"}r\xff\xff\xff\x0fh\0"),
    "many arrays": pickled(b"}", RECONSTRUCT, b"q\0", b"h\0)R0" * 200),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_asks_for_memory(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.pickle"
    file.write_bytes(PICKLES[kind])
    list(pickletools.genops(PICKLES[kind]))  # it is one
    with sparing(MIB), pytest.raises(UsageError, match=r"x\.pickle: not a readable pickle"):
        read_arrays(file)


def test_lists_in_lists_are_not_unfolded(tmp_path: Path) -> None:
    nested: Any = 0
    for _ in range(40):
        nested = [nested] * 9
    content = {"data": pixels(2, 3, 32), "extrapolated_targets": nested}
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(content, protocol=3))
    with pytest.raises(UsageError, match="'extrapolated_targets' is a list; expected an array"):
        extra(tmp_path / "x.pickle")


def test_what_compresses_as_images_do_is_read(tmp_path: Path) -> None:
    """Blank images, beyond what any file may unpack to."""
    data = pixels(3000, 3, 32)
    data[:2900] = 255
    np.savez_compressed(tmp_path / "x.npz", images=data, labels=np.arange(3000) % 10)
    assert data.nbytes > files.FREE
    assert len(extra(tmp_path / "x.npz").labels) == 3000
