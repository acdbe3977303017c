"""Networks as ONNX files: for other runtimes to run, and for us to read again."""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.artifacts.container import KEY, check_there
from robustprune.artifacts.limits import check_room
from robustprune.artifacts.metadata import canonical, described, parsed
from robustprune.artifacts.saved import SavedModel, outlined, tensors_of, try_on
from robustprune.artifacts.state_dict import COUNTER, fitted, nonzeros
from robustprune.errors import MissingDependencyError, UsageError, first_line
from robustprune.files import replacing

INPUT, OUTPUT = "images", "logits"
_BATCHES = (1, 7)  # sizes that an export is tried with
_WIDEST = 16  # bytes of an element, of those that there are
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
    onnx = _library("onnx")
    _library("onnxscript")
    model = saved.model.eval()
    images = _images(model, saved.metadata["model"], 2)
    batch = {0: torch.export.Dim("batch")}
    try_on(model, images, purpose="ONNX files are tried")
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
        raise UsageError(f"the network cannot be written as ONNX: {first_line(error)}") from error
    assert program is not None
    proto = program.model_proto
    _add_unused(onnx, proto, tensors_of(model))
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, canonical(saved.metadata | {"masked": sorted(saved.masks)})
    content = proto.SerializeToString()
    content += _seal(onnx, content)
    difference = _tried(content, model, saved.metadata["model"])
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return difference


def read_onnx(path: Path) -> SavedModel:
    """Read a file that `save_onnx` wrote, as a network of PyTorch.

    The masks are where pruned tensors are not zero. Counters of batches are not in the file.

    Raises:
        UsageError: it is missing, somebody else's, or a single bit of it has changed.
        MissingDependencyError: the library onnx is not installed.
    """
    onnx = _library("onnx")
    check_there(path)
    content = path.read_bytes()
    try:
        proto = onnx.load_model_from_string(content)
        known = {entry.key: entry.value for entry in proto.metadata_props}
        if any(onnx.external_data_helper.uses_external_data(t) for t in proto.graph.initializer):
            raise ValueError("its tensors are in other files, which are not read")
        sizes = [math.prod(t.dims) * _WIDEST for t in proto.graph.initializer]
        check_room(path, sum(sizes), held=len(content), times=_WIDEST)
        tensors = {t.name: _tensor(onnx, t) for t in proto.graph.initializer}
    except UsageError:
        raise
    except Exception as error:  # of protobuf, about bytes of any kind
        raise UsageError(f"{path} is not a whole ONNX file ({error}).") from None
    if KEY not in known:
        raise UsageError(
            f"{path} was not written by robustprune: it does not name the architecture from which "
            "the network can be rebuilt."
        )
    body = content[: -len(_seal(onnx, b""))]
    if content != body + _seal(onnx, body):
        raise UsageError(f"{path} is damaged: its content does not have the digest that it names.")
    metadata = described(path, parsed(path, known[KEY]))
    masked = metadata.pop("masked", [])
    outline = outlined(path, metadata, tensors=len(tensors))
    own = {name: tensors[name] for name in outline.state_dict() if name in tensors}
    model, _ = fitted(path, metadata, own)
    return SavedModel(model, nonzeros(path, model, masked), metadata)


def session(content: bytes | str) -> Any:
    """An ONNX Runtime session on the CPU, of a file's path or its content."""
    runtime = _library("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _add_unused(onnx: Any, proto: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put those tensors of the state dict into the file that no operator of the graph uses."""
    used = {tensor.name for tensor in proto.graph.initializer}
    for name in tensors.keys() - used:
        if not name.endswith(COUNTER):
            array = tensors[name].detach().cpu().contiguous().numpy()
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))


def _seal(onnx: Any, content: bytes) -> bytes:
    """What stands behind a file's content: an entry of metadata with its digest.

    A serialised message behind another is merged with it, so that any reader takes both for one.
    """
    digest = hashlib.sha256(content).hexdigest()
    entry = onnx.StringStringEntryProto(key=f"{KEY}.sha256", value=digest)
    sealed: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return sealed


def _tried(content: bytes, model: nn.Module, architecture: dict[str, Any]) -> float:
    """The largest difference of logits; raises where it is more than rounding."""
    worst = 0.0
    batches = [_images(model, architecture, batch) for batch in _BATCHES]
    try:
        running = session(content)
        answers = [running.run([OUTPUT], {INPUT: images.numpy()})[0] for images in batches]
    except Exception as error:  # of the runtime, about types and operators of any kind
        raise UsageError(
            f"ONNX Runtime cannot run the network, so nothing was written: {first_line(error)}"
        ) from error
    for images, found in zip(batches, answers, strict=True):
        with torch.no_grad():
            expected = model(images)
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
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
