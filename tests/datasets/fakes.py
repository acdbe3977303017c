"""Tiny datasets on disk, in the layouts that the real ones have."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from robustprune import datasets
from robustprune.datasets import Dataset
from robustprune.datasets.small_images import SmallImages


def pixels(count: int, channels: int, size: int, *, seed: int = 0) -> np.ndarray[Any, Any]:
    """uint8, (count, size, size, channels)."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def png(image: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(stream, "PNG")
    return stream.getvalue()


def write_hub(
    file: Path,
    images: list[bytes | None],
    labels: list[int],
    *,
    image: str = "image",
    label: str = "label",
    **columns: list[Any],
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = pa.array([{"bytes": data, "path": None} for data in images], kind)
    pq.write_table(pa.table({**columns, image: cells, label: pa.array(labels, pa.int64())}), file)
    return file


def write_split(folder: Path, split: str, dataset: Dataset, count: int, **columns: Any) -> Path:
    images = pixels(count, dataset.channels, dataset.image_size, seed=len(split))
    labels = [row % dataset.num_classes for row in range(count)]
    file = folder / f"{split}-00000-of-00001.parquet"
    return write_hub(file, [png(image) for image in images], labels, **columns)


def write_folders(root: Path, *, classes: int = 2, each: int = 6, size: int = 20) -> None:
    for split in ("train", "val"):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for row, image in enumerate(pixels(each, 3, size, seed=label)):
                Image.fromarray(image).save(folder / f"{row}.png")


def create(name: str, folder: Path, **options: Any) -> Dataset:
    """The dataset ``name`` on files of its own below ``folder``: at least 12 train, 6 test."""
    schema = datasets.get(name)
    if name == "imagefolder":
        write_folders(folder)
        small = {"root": folder, "classes": 2, "size": 8, "resize": 10, "workers": 0}
        return datasets.create(name, **{**small, **options})
    if not issubclass(schema, SmallImages):
        return datasets.create(name, **options)
    dataset = datasets.create(name, root=folder, download=False, **options)
    write_split(folder, "train", dataset, 12)
    write_split(folder, "test", dataset, 6)
    return dataset
