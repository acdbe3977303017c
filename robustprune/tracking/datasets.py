"""The images of a run as MLflow datasets: what they are and where they come from, not a copy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustprune.tracking.layout import recorded_section

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_NEEDED = {"name", "context", "digest", "images", "shape", "classes"}


def described(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The datasets of a run, each with its ``source``, from the content of ``results.json``.

    The source is the recipe's ``data`` section and the seed: they are what the images can be had
    from again. Entries that lack anything are left out.
    """
    source = {"data": recorded_section(results, "data"), "seed": results.get("seed")}
    found = results.get("datasets")
    entries = found if isinstance(found, list) else []
    return [
        {**entry, "source": source}
        for entry in entries
        if isinstance(entry, Mapping) and entry.keys() >= _NEEDED
    ]


def inputs(datasets: Sequence[Mapping[str, Any]]) -> list[DatasetInput]:
    """What `described` gave, as a run's inputs; the context is a tag, as MLflow's UI shows it."""
    from mlflow.entities import DatasetInput, InputTag

    return [
        DatasetInput(_entity(entry), [InputTag("mlflow.data.context", str(entry["context"]))])
        for entry in datasets
    ]


def form(datasets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The ``shape`` of a run's images and the number of their ``classes``; None if not known."""
    first = datasets[0] if datasets else {}
    return {key: first.get(key) for key in ("shape", "classes")}


def test_set(datasets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What names the test images in a metric; nothing if they are not known."""
    found = [entry for entry in datasets if entry["context"] == "test"][:1]
    return {f"dataset_{key}": str(entry[key]) for entry in found for key in ("name", "digest")}


def _entity(entry: Mapping[str, Any]) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import Dataset

    count = int(entry["images"])
    source = {key: json.dumps(value, default=str) for key, value in entry["source"].items()}
    return Dataset(
        name=str(entry["name"]),
        digest=str(entry["digest"]),
        source_type=CodeDatasetSource._get_source_type(),
        source=CodeDatasetSource({"mlflow.source.name": "robustprune", **source}).to_json(),
        schema=_schema(entry),
        profile=json.dumps({"num_rows": count, "classes": int(entry["classes"])}),
    )


def _schema(entry: Mapping[str, Any]) -> str:
    import numpy as np
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype(np.float32), (-1, *map(int, entry["shape"])), name="images")
    labels = TensorSpec(np.dtype(np.int64), (-1,), name="labels")
    return json.dumps(TensorDatasetSchema(Schema([images]), Schema([labels])).to_dict())
