"""A network as a packed file, about as small as what it keeps. PACKED.md describes the format.

It is a safetensors file of three byte tensors, each a zstd frame: ``manifest`` (JSON: the metadata,
and what is known of each tensor), ``positions`` (masks) and ``values``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from robustprune.artifacts.backends import Backend, register
from robustprune.artifacts.checksummed import (
    KEY,
    ModelFile,
    canonical,
    parse_json,
    write_safetensors,
)
from robustprune.artifacts.limits import check_room
from robustprune.artifacts.packing import (
    DTYPES,
    MOST_SHARED,
    Entry,
    PackError,
    pack_tensor,
    unpack_tensor,
)
from robustprune.artifacts.saved import (
    Outline,
    SavedModel,
    differences,
    listed,
    tensors_of,
    validated,
)
from robustprune.errors import UsageError
from robustprune.masking import prunable_layers

VERSION, SHARED = 1, 2
"""Versions of the format: as it is, and with codebooks."""

Values = Literal["fp32", "fp16"]

STREAMS = ("manifest", "positions", "values")
_LEVEL = 3  # more only finds chance repetitions: slower, and no smaller
_MOST_MANIFEST = 2**22  # bytes
_SMALLER = 1000  # times, that a packed file may be than its network


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True)

    metadata: dict[str, Any]
    tensors: list[Entry]


@register("packed")
class Packed(Backend):
    """A small file: kept values, their positions, and nothing else, exact to the bit."""

    suffixes = (".packed.safetensors", ".safetensors")

    values: Values = "fp32"
    """Precision of the weights of convolutions and linear layers; ``fp16`` rounds them, and leaves
    everything else exact."""
    codebook: int = Field(0, ge=0, le=MOST_SHARED)
    """Values that the weights of each convolution and linear layer share, found by k-means; 0:
    none are shared. Deep Compression (Han et al. 2016) takes 16 to 256. Another network: judge it
    again."""

    @property
    def exact(self) -> bool:
        """False where weights are shared: nothing that was measured is carried over."""
        return not self.codebook

    @property
    def tolerance(self) -> float:
        """See `Backend.tolerance`; rounded weights make for other logits."""
        if self.codebook:
            return math.inf  # whatever so few values make of it; checksums say that it is read so
        return super().tolerance if self.values == "fp32" else 0.1

    def write(self, network: SavedModel, path: Path) -> list[str]:
        """Write a network packed; what its masks prune is +0.0 when it is read again."""
        described = replace(network, metadata=self.metadata(network))
        try:
            frames, halved = pack(described, self.values, codebook=self.codebook)
        except PackError as error:
            raise UsageError(f"{path.name} was not written: {error}") from None
        streams = [torch.frombuffer(frame, dtype=torch.uint8) for frame in frames]
        write_safetensors(
            path, dict(zip(STREAMS, streams, strict=True)), _seal(frames, self._version)
        )
        if self.codebook:
            return [
                f"The weights of each convolution and linear layer share {self.codebook} values, "
                "by k-means: it is another network, and nothing that was measured or certified of "
                "the one before holds. Evaluate it."
            ]
        if not halved:
            return []
        return [
            "Weights of convolutions and linear layers are rounded to half precision: what was "
            "measured of the network was measured before that."
        ]

    @property
    def _version(self) -> int:
        return SHARED if self.codebook else VERSION

    @classmethod
    def recognises(cls, file: ModelFile) -> bool:
        """True of a safetensors file that says that it is packed."""
        return (file.document or {}).get("format") == "packed"

    @classmethod
    def read(cls, file: ModelFile) -> SavedModel:
        """Read a file that `write` wrote, of which not a bit has changed."""
        path, (described, positions, values) = file.path, _frames(file)
        try:
            document = parse_json(path, _decompressed(described))
            manifest = validated(path, _Manifest, document, "manifest")
            entries = manifest.tensors
            if any(e.codebook for e in entries) and (file.document or {})["version"] != SHARED:
                raise PackError("it has codebooks, which its version has not")
            needed = sum(entry.tensor_bytes for entry in entries)
            check_room(path, needed, held=path.stat().st_size, times=_SMALLER)
            outline = Outline(path, manifest.metadata, tensors=len(entries))
            promised = {
                entry.name: torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="meta")
                for entry in entries
            }
            if problems := differences(outline.state, promised):
                raise PackError(listed(problems))  # before anything of that size is decompressed
            wheres = _split(positions, [entry.position_bytes for entry in entries])
            whats = _split(values, [entry.value_bytes for entry in entries])
            weights, masks = {}, {}
            for entry, where, what in zip(entries, wheres, whats, strict=True):
                weights[entry.name], mask = unpack_tensor(entry, where, what)
                if mask is not None:
                    masks[entry.name] = mask
        except PackError as error:
            raise UsageError(f"{path} is damaged: {error}.") from None
        return outline.rebuild(weights, masks)


def pack(
    network: SavedModel, values: Values = "fp32", *, codebook: int = 0
) -> tuple[list[bytearray], bool]:
    """The streams of a packed file, and True if a weight was rounded: only single precision is."""
    weights = {f"{name}.weight".lstrip(".") for name in prunable_layers(network.model)}
    entries, positions, numbers = [], [], []
    for name, tensor in sorted(tensors_of(network.model).items()):
        half = values == "fp16" and name in weights and tensor.dtype == torch.float32
        shared = codebook if name in weights and tensor.dtype == torch.float32 else 0
        entry, where, what = pack_tensor(
            name, tensor, network.masks.get(name), half=half, codebook=shared
        )
        entries.append(entry.model_dump(mode="json", exclude_defaults=True))
        positions.append(where)
        numbers.append(what)
    halved = any("stored" in entry for entry in entries)
    metadata = {**network.metadata, "values": values} if halved else network.metadata
    metadata = {**metadata, "values": f"{codebook} shared"} if codebook else metadata
    manifest = {"metadata": metadata, "tensors": entries}
    text = json.dumps(manifest, sort_keys=True, allow_nan=False, separators=(",", ":"))
    contents = (text.encode(), b"".join(positions), b"".join(numbers))
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    return [bytearray(compressor.compress(content)) for content in contents], halved


def _seal(frames: Sequence[bytes | bytearray], version: int) -> str:
    """The text in the file's header: a digest of everything else."""
    digest = hashlib.sha256(b"".join(frames)).hexdigest()
    return canonical({"format": "packed", "sha256": digest, "version": version})


def _frames(file: ModelFile) -> list[bytes]:
    version = (file.document or {}).get("version")
    if version not in (VERSION, SHARED):
        raise UsageError(
            f"{file.path} is packed in version {version!r} of the format, and this robustprune "
            f"reads versions {VERSION} and {SHARED}. A newer robustprune may read it."
        )
    found = {(name, tensor.dtype, tensor.ndim) for name, tensor in file.tensors.items()}
    if found != {(name, torch.uint8, 1) for name in STREAMS}:
        raise UsageError(f"{file.path} is damaged: its streams are no bytes.")
    frames = [file.tensors[name].numpy().tobytes() for name in STREAMS]
    if file.header != {KEY: _seal(frames, version)}:
        raise file.changed()
    return frames


def _split(frame: bytes, sizes: list[int]) -> list[NDArray[np.uint8]]:
    """The content of a frame, cut into pieces of so many bytes."""
    content = np.frombuffer(_decompressed(frame, sum(sizes)), dtype=np.uint8)
    return np.split(content, np.cumsum(sizes)[:-1])


def _decompressed(frame: bytes, size: int | None = None) -> bytes:
    """The content of a frame, if it has ``size`` bytes; nothing larger is made room for."""
    try:
        stated = zstandard.frame_content_size(frame)
        if size is None and not 0 <= stated <= _MOST_MANIFEST:
            raise PackError(f"its manifest would have {stated} bytes")
        if size is not None and stated != size:
            raise PackError(f"a stream does not have the {size} bytes that its tensors take")
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise PackError(str(error)) from None
