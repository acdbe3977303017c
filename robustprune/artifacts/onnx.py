"""Networks as ONNX files: for other runtimes to run, and for us to read again."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.artifacts.container import KEY, check_there
from robustprune.artifacts.saved import SavedModel, created
from robustprune.artifacts.state_dict import fill, nonzeros
from robustprune.errors import MissingDependencyError, UsageError
from robustprune.files import replacing

INPUT, OUTPUT = "images", "logits"
_BATCHES = (1, 7)  # sizes that an export is tried with
_TOLERANCE = 1e-4  # of the logits' size


def save_onnx(path: Path, saved: SavedModel) -> float:
    """Write a network for any ONNX runtime, whole or not at all.

    Its input ``images`` is ``(batch, channels, height, width)`` in [0, 1], its output ``logits``;
    the batch may have any size, and the normalisation is inside.

    Args:
        path: ends in ``.onnx``.
        saved: the network; ``metadata["model"]`` says what images it takes.

    Returns:
        The largest difference between the logits of ONNX Runtime and of PyTorch on random images.

    Raises:
        UsageError: it cannot be exported, or ONNX Runtime gives other answers.
        MissingDependencyError: a library is not installed.
    """
    _library("onnxscript")
    model = saved.model.eval()
    images = _images(model, saved.metadata["model"], 2)
    batch = {0: torch.export.Dim("batch")}
    try:
        with _quiet():
            program = torch.onnx.export(
                *(model, (images,)),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(batch,),
                dynamo=True,
                optimize=False,  # runtimes do that themselves, and tensors keep their names
                verbose=False,
            )
    except Exception as error:  # of a compiler, about anything that it cannot translate
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UsageError(f"the network cannot be written as ONNX: {reason}") from error
    assert program is not None
    document = saved.metadata | {"masked": sorted(saved.masks)}
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(document, sort_keys=True, allow_nan=False)
    content = proto.SerializeToString()
    difference = _tried(content, model, saved.metadata["model"])
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return difference


def read_onnx(path: Path) -> SavedModel:
    """Read a file that `save_onnx` wrote, as a network of PyTorch.

    The masks are where pruned tensors are not zero. Counters of batches are not in the file.

    Raises:
        UsageError: it is missing, damaged or somebody else's.
        MissingDependencyError: the library onnx is not installed.
    """
    onnx = _library("onnx")
    check_there(path)
    try:
        proto = onnx.load(path, load_external_data=False)
        known = {entry.key: entry.value for entry in proto.metadata_props}
        if any(tensor.external_data for tensor in proto.graph.initializer):
            raise ValueError("its tensors are in other files, which are not read")
        tensors = {t.name: _tensor(onnx, t) for t in proto.graph.initializer}
    except Exception as error:  # of protobuf, about bytes of any kind
        raise UsageError(f"{path} is not a whole ONNX file ({error}).") from None
    try:
        metadata = json.loads(known[KEY])
        masked = metadata.pop("masked")
        model = created(path, metadata.get("model"))
        own = {name for name in model.state_dict() if name in tensors}
        wanted = {name: tensors[name] for name in own}
        fill(path, model, wanted, name=str(metadata["model"]["name"]))
        masks = nonzeros(model, masked)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise UsageError(
            f"{path} was not written by robustprune, or is damaged: it does not name the "
            "architecture from which the network can be rebuilt."
        ) from None
    return SavedModel(model.eval(), masks, metadata)


def session(content: bytes | str) -> Any:
    """An ONNX Runtime session on the CPU, of a file's path or its content."""
    runtime = _library("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _tried(content: bytes, model: nn.Module, architecture: dict[str, Any]) -> float:
    """The largest difference of logits; raises where it is more than rounding."""
    running, worst = session(content), 0.0
    for batch in _BATCHES:
        images = _images(model, architecture, batch)
        with torch.no_grad():
            expected = model(images)
        (found,) = running.run([OUTPUT], {INPUT: images.numpy()})
        difference = float((torch.from_numpy(found) - expected).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
            raise UsageError(
                f"ONNX Runtime gives other logits than PyTorch, by {difference:.3g}: nothing was "
                "written. Export another format, and please report it."
            )
        worst = max(worst, difference)
    return worst


def _images(model: nn.Module, architecture: dict[str, Any], batch: int) -> Tensor:
    from robustprune.models import image_size

    size = image_size(architecture)
    generator = torch.Generator().manual_seed(batch)
    channels = architecture.get("in_chans", 3)
    like = next(model.parameters())
    return torch.rand(batch, channels, size, size, generator=generator).to(like.dtype)


def _tensor(onnx: Any, found: Any) -> Tensor:
    return torch.from_numpy(onnx.numpy_helper.to_array(found).copy())


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX files need {name}, which cannot be imported ({error}). Install it with\n"
            "    pip install 'robustprune[onnx]'"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
