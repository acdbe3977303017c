"""A second reader of packed files, written from PACKED.md alone, without robustprune."""

import hashlib
import json
import math
import zlib
from pathlib import Path

import numpy as np
import zstandard
from safetensors import safe_open

TYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4", "BOOL": "?"}


def read_as_described(path: Path) -> tuple[dict, dict, dict]:
    """Metadata, tensors and masks."""
    with safe_open(path, framework="np") as file:
        frames = [file.get_tensor(name).tobytes() for name in ("manifest", "positions", "values")]
        seal = json.loads(file.metadata()["robustprune"])
    digest = hashlib.sha256(b"".join(frames)).hexdigest()
    assert seal == {"format": "packed", "sha256": digest, "version": seal["version"]}
    manifest, positions, values = (zstandard.ZstdDecompressor().decompress(f) for f in frames)
    content = json.loads(manifest)
    tensors, masks = {}, {}
    for entry in content["tensors"]:
        size = math.prod(entry["shape"])
        stored = np.dtype(TYPES[entry.get("stored", entry["dtype"])])
        count = entry.get("count", size)
        where = np.ones(size, bool)
        if coding := entry.get("coding"):
            length = entry.get("position_bytes", 0)
            mine, positions = positions[:length], positions[length:]
            where = {"gaps": of_gaps, "bits": of_bits}[coding](mine, size)
        shared = entry.get("codebook", 0)
        n = shared or count
        planes, values = values[: n * stored.itemsize], values[n * stored.itemsize :]
        rows = [planes[plane * n : (plane + 1) * n] for plane in range(stored.itemsize)]
        kept = np.frombuffer(bytes(b for value in zip(*rows, strict=True) for b in value), stored)
        if shared:
            codes, values = values[:count], values[count:]
            kept = kept[list(codes)]
        flat = np.zeros(size, TYPES[entry["dtype"]])
        flat[where] = kept
        check = np.packbits(where).tobytes() if entry.get("mask") else b""
        assert zlib.crc32(check + flat.tobytes()) == entry["crc32"]
        tensors[entry["name"]] = flat.reshape(entry["shape"])
        if entry.get("mask"):
            masks[entry["name"]] = where.reshape(entry["shape"])
    assert positions == values == b""
    return content["metadata"], tensors, masks


def of_gaps(coded: bytes, size: int) -> np.ndarray:
    where, place, gap = np.zeros(size, bool), 0, 0
    for byte in coded:
        gap += byte
        if byte < 255:
            where[place + gap] = True
            place, gap = place + gap + 1, 0
    return where


def of_bits(coded: bytes, size: int) -> np.ndarray:
    return np.array([coded[i // 8] >> (7 - i % 8) & 1 for i in range(size)], bool)
