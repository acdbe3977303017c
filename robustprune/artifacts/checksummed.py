"""Safetensors files of ours: tensors as they are, and metadata with a digest of everything.

The metadata is one key of sorted JSON without time, run id or absolute path (safetensors writes
several keys in random order), so that equal content is an equal file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustprune.artifacts.limits import LONGEST_STRUCTURE
from robustprune.errors import UsageError
from robustprune.files import replacing

KEY = "robustprune"
_DIGEST = "sha256"


class ModelFile:
    """A file that may hold a network, opened once, whatever is asked about it.

    Attributes:
        path: the file.
        header: all metadata of a safetensors file; empty of others.
        tensors: all tensors of a safetensors file; empty of others.
        document: our key of the metadata; None if the file has none.
    """

    def __init__(self, path: Path) -> None:
        if not os.path.isfile(path):
            if os.path.exists(path):
                kind = "a folder" if path.is_dir() else "no regular file"
                raise UsageError(f"{path} is {kind}, and no model file. Name the file in it.")
            raise UsageError(
                f"there is no model file {path}. A run writes one per network, e.g. "
                "runs/<recipe>/<id>/hydra-0.01/model.safetensors."
            )
        self.path = path
        self.header: dict[str, str] = {}
        self.tensors: dict[str, Tensor] = {}
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt") as file:
                    self.header = dict(file.metadata() or {})
                    self.tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise UsageError(
                    f"{path} is not a whole safetensors file ({error}). If it is a pickle (.pt, "
                    ".pth), it was not opened: pickles can run code."
                ) from None
        self.document = parse_json(path, self.header[KEY]) if KEY in self.header else None

    def checksummed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Metadata and tensors that `write_checksummed` wrote; refused if a single bit differs."""
        metadata = {key: value for key, value in (self.document or {}).items() if key != _DIGEST}
        if self.header != {KEY: _with_digest(self.tensors, metadata)}:
            raise self.changed()
        return metadata, self.tensors

    def changed(self) -> UsageError:
        """The error about a file that has changed since it was written."""
        return UsageError(
            f"{self.path} is damaged: its content does not have the digest that it names."
        )


def write_checksummed(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], *, durable: bool = True
) -> None:
    """Write tensors and metadata, whole or not at all; see `robustprune.files.replacing`."""
    write_safetensors(path, tensors, _with_digest(tensors, metadata), durable=durable)


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: str, *, durable: bool = True
) -> None:
    """Write a file, whole or not at all, with the text under our key of its metadata."""
    own: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():  # the format has no tensors that share memory
        plain = tensor.detach().cpu().contiguous()
        own[name] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    content = save(own, {KEY: metadata})
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the metadata and of the tensors' names, types and bytes."""
    found = hashlib.sha256(canonical(metadata).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def canonical(document: Mapping[str, Any]) -> str:
    """Metadata as the one text that stands for it: equal content is an equal text."""
    return json.dumps(dict(document), sort_keys=True, allow_nan=False)


def parse_json(path: Path, text: str | bytes) -> dict[str, Any]:
    """A JSON mapping that anybody may have written; ``path`` is for messages."""
    if len(text) > LONGEST_STRUCTURE:
        raise UsageError(
            f"{path} was not read: its metadata is longer than {LONGEST_STRUCTURE:,} characters."
        )
    try:
        document = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path} is damaged: its metadata cannot be read ({reason}).") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path} is damaged: its metadata is no mapping.")
    return document


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits} is no finite number")
    return value


def _with_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    return canonical({**metadata, _DIGEST: digest(tensors, metadata)})
