"""A network as a packed file, about as small as what it keeps. PACKED.md describes the format.

It is a safetensors file of three byte tensors, each a zstd frame: ``manifest`` (JSON: the metadata,
and what is known of each tensor), ``positions`` (masks) and ``values``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from robustprune.artifacts.container import (
    KEY,
    open_safetensors,
    own_text,
    write_safetensors,
)
from robustprune.artifacts.limits import check_room
from robustprune.artifacts.metadata import canonical, described, parsed
from robustprune.artifacts.packing import Entry, PackError, pack_tensor, unpack_tensor
from robustprune.artifacts.saved import (
    SavedModel,
    differences,
    listed,
    outlined,
    rebuilt,
    tensors_of,
)
from robustprune.errors import UsageError
from robustprune.masking import prunable_layers

VERSION = 1
Values = Literal["fp32", "fp16"]

_STREAMS = ("manifest", "positions", "values")
_LEVEL = 3  # more only finds chance repetitions: slower, and no smaller
_MOST_MANIFEST = 2**22  # bytes
_SMALLER = 1000  # times, that a packed file may be than its network


def save_packed(path: Path, saved: SavedModel, *, values: Values = "fp32") -> bool:
    """Write a network packed, whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        saved: the network; what its masks prune is +0.0 when it is read again.
        values: ``fp16`` keeps the weights of convolutions and linear layers in half precision,
            which changes them; everything else stays exact.

    Returns:
        Whether any weight was rounded: only those of single precision are.

    Raises:
        UsageError: a tensor cannot be packed, or a weight is too large for half precision.
    """
    try:
        frames, halved = _frames_of(saved, values)
    except PackError as error:
        raise UsageError(f"{path} was not written: {error}") from None
    streams = {name: torch.frombuffer(frame, dtype=torch.uint8) for name, frame in frames.items()}
    write_safetensors(path, streams, _seal(frames))
    return halved


def packed_bytes(saved: SavedModel) -> int:
    """How large a packed file of this network is, up to some 300 bytes of the container."""
    return sum(len(frame) for frame in _frames_of(saved, "fp32")[0].values())


def is_packed(path: Path) -> bool:
    """Whether a safetensors file says that it is packed."""
    with open_safetensors(path) as file:
        text = (file.metadata() or {}).get(KEY, "")
        return '"packed"' in text and file.keys() == sorted(_STREAMS)


def read_packed(path: Path) -> SavedModel:
    """Read a file that `save_packed` wrote.

    Raises:
        UsageError: it is missing or damaged (a single bit is enough), of a later version, or its
            tensors do not fit the architecture that it names.
    """
    frames = _frames(path)
    metadata, entries = _manifest(path, frames)
    needed = sum(entry.size * entry.torch_dtype.itemsize for entry in entries)
    check_room(path, needed, held=path.stat().st_size, times=_SMALLER)
    outline = outlined(path, metadata, tensors=len(entries))
    promised = {e.name: torch.empty(e.shape, dtype=e.torch_dtype, device="meta") for e in entries}
    if problems := differences(
        outline.state_dict(), promised
    ):  # before anything of that size is decompressed
        raise UsageError(f"{path} is damaged: {listed(problems)}.")
    try:
        sizes = [sum(e.position_bytes for e in entries), sum(e.value_bytes for e in entries)]
        positions, values = (
            _decompressed(frames[name], size)
            for name, size in zip(_STREAMS[1:], sizes, strict=True)
        )
        weights, masks = _unpacked(entries, positions, values)
    except PackError as error:
        raise UsageError(f"{path} is damaged: {error}.") from None
    return rebuilt(path, metadata, weights, masks, outline)


def packed_metadata(path: Path) -> dict[str, Any]:
    """Architecture and provenance of a packed file, its other tensors left alone."""
    return _manifest(path, _frames(path))[0]


def _frames_of(saved: SavedModel, values: Values) -> tuple[dict[str, bytearray], bool]:
    """The file's streams, and whether a weight was rounded."""
    weights = {f"{name}.weight".lstrip(".") for name in prunable_layers(saved.model)}
    entries, positions, numbers = [], [], []
    for name, tensor in sorted(tensors_of(saved.model).items()):
        half = values == "fp16" and name in weights and tensor.dtype == torch.float32
        entry, where, what = pack_tensor(name, tensor, saved.masks.get(name), half=half)
        entries.append(entry)
        positions.append(where)
        numbers.append(what)
    halved = any(entry.stored != entry.dtype for entry in entries)
    metadata = {**saved.metadata, "values": values} if halved else saved.metadata
    manifest = {"metadata": metadata, "tensors": [entry.document() for entry in entries]}
    text = json.dumps(manifest, sort_keys=True, allow_nan=False, separators=(",", ":"))
    contents = (text.encode(), b"".join(positions), b"".join(numbers))
    return dict(zip(_STREAMS, map(_compressed, contents), strict=True)), halved


def _unpacked(
    entries: list[Entry], positions: bytes, values: bytes
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    wheres = _pieces(positions, [entry.position_bytes for entry in entries])
    whats = _pieces(values, [entry.value_bytes for entry in entries])
    weights, masks = {}, {}
    for entry, where, what in zip(entries, wheres, whats, strict=True):
        weights[entry.name], mask = unpack_tensor(entry, where, what)
        if mask is not None:
            masks[entry.name] = mask
    return weights, masks


def _pieces(stream: bytes, sizes: list[int]) -> list[NDArray[np.uint8]]:
    return np.split(np.frombuffer(stream, dtype=np.uint8), np.cumsum(sizes)[:-1])


def _seal(frames: Mapping[str, bytes | bytearray]) -> str:
    """What stands in the file's header: a digest of everything else."""
    digest = hashlib.sha256(b"".join(frames[name] for name in _STREAMS)).hexdigest()
    return canonical({"format": "packed", "sha256": digest, "version": VERSION})


def _frames(path: Path) -> dict[str, bytes]:
    try:
        with open_safetensors(path) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged: {error}.") from None
    seal = parsed(path, own_text(path, header))
    if seal.get("format") != "packed" or tensors.keys() != set(_STREAMS):
        raise UsageError(f"{path} is no packed file.")
    if seal.get("version") != VERSION:
        raise UsageError(
            f"{path} is packed in version {seal.get('version')!r} of the format, and this "
            f"robustprune reads version {VERSION}. A newer robustprune may read it."
        )
    if any(tensor.dtype != torch.uint8 or tensor.ndim != 1 for tensor in tensors.values()):
        raise UsageError(f"{path} is damaged: its streams are no bytes.")
    frames = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    if header != {KEY: _seal(frames)}:
        raise UsageError(f"{path} is damaged: its content does not have the digest that it names.")
    return frames


def _manifest(path: Path, frames: Mapping[str, bytes]) -> tuple[dict[str, Any], list[Entry]]:
    try:
        size = zstandard.frame_content_size(frames["manifest"])
        if not 0 <= size <= _MOST_MANIFEST:
            raise PackError(f"its manifest would have {size} bytes")
        manifest = parsed(path, _decompressed(frames["manifest"], size))
        entries = [Entry.read(document) for document in manifest["tensors"]]
        metadata = manifest["metadata"]
    except (PackError, zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error}.") from None
    return described(path, metadata), entries


def _compressed(content: bytes) -> bytearray:
    return bytearray(zstandard.ZstdCompressor(level=_LEVEL).compress(content))


def _decompressed(frame: bytes, size: int) -> bytes:
    """A frame's content, if it has ``size`` bytes; nothing larger is made room for."""
    try:
        if zstandard.frame_content_size(frame) != size:
            raise PackError(f"a stream does not have the {size} bytes that its tensors take")
        content = zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise PackError(str(error)) from None
    return content
