"""Networks as ONNX files: for other runtimes to run, and for us to read again."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustprune.artifacts.backends import Backend, register
from robustprune.artifacts.backends.base import example_images
from robustprune.artifacts.checksummed import KEY, ModelFile, canonical, parse_json
from robustprune.artifacts.limits import check_room
from robustprune.artifacts.saved import Outline, SavedModel, tensors_of
from robustprune.artifacts.state_dict import COUNTER, fitted
from robustprune.errors import UsageError, first_line

INPUT, OUTPUT = "images", "logits"
_WIDEST = 16  # bytes of an element, of those that there are


@register("onnx")
class Onnx(Backend):
    """An ONNX graph, for ONNX Runtime and others: any batch size, normalisation inside."""

    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    libraries = ("onnx", "onnxscript", "onnxruntime")
    install = "pip install 'robustprune[onnx]'"

    def write(self, network: SavedModel, path: Path) -> list[str]:
        """Write a network with input ``images`` in [0, 1] and output ``logits``."""
        onnx = self.library("onnx")
        try:
            with quiet():
                program = torch.onnx.export(
                    network.model,
                    (example_images(network, 2),),
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    dynamo=True,
                    optimize=False,  # runtimes do that themselves, and tensors keep their names
                    verbose=False,
                )
        except Exception as error:  # of a compiler, about anything that it cannot translate
            reason = first_line(error)
            raise UsageError(f"the network cannot be written as ONNX: {reason}") from error
        assert program is not None
        proto = program.model_proto
        used = {tensor.name for tensor in proto.graph.initializer}
        for name, tensor in tensors_of(network.model).items():
            if name not in used and not name.endswith(COUNTER):
                array = tensor.detach().cpu().contiguous().numpy()
                proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        seal(proto, path, network.metadata | {"masked": sorted(network.masks)})
        return [
            "Input 'images', (batch, channels, height, width) in [0, 1]; output 'logits'; "
            "normalisation inside."
        ]

    @classmethod
    def recognises(cls, file: ModelFile) -> bool:
        """True of a file of this ending, unless it is a quantised one."""
        return super().recognises(file) and not file.path.name.endswith(".int8.onnx")

    @classmethod
    def read(cls, file: ModelFile) -> SavedModel:
        """Read a file that `write` wrote, of which not a bit has changed.

        The masks are where pruned tensors are not zero. Counters of batches are not in the file.
        """
        path = file.path
        proto, metadata = cls.checked(file)
        tensors = cls.tensors_in(path, proto)
        outline = Outline(path, metadata, tensors=len(tensors))
        own = {name: tensors[name] for name in outline.state if name in tensors}
        model = fitted(outline, own).model
        return SavedModel(model, outline.nonzero_masks(model.state_dict()), metadata)

    @classmethod
    def checked(cls, file: ModelFile) -> tuple[Any, dict[str, Any]]:
        """The graph in a file of ours, and its metadata; refused if a bit has changed."""
        path, onnx = file.path, cls.library("onnx")
        content = path.read_bytes()
        try:
            proto = onnx.load_model_from_string(content)
            known = {entry.key: entry.value for entry in proto.metadata_props}
            found = proto.graph.initializer
            if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in found):
                raise ValueError("its tensors are in other files, which are not read")
            needed = sum(math.prod(tensor.dims) * _WIDEST for tensor in found)
            check_room(path, needed, held=len(content), times=_WIDEST)
        except UsageError:
            raise
        except Exception as error:  # of protobuf, about bytes of any kind
            raise UsageError(f"{path} is not a whole ONNX file ({error}).") from None
        if KEY not in known:
            raise UsageError(
                f"{path} was not written by robustprune: it does not name the architecture from "
                "which the network can be rebuilt."
            )
        body = content[: -len(digest_of(b""))]
        if content != body + digest_of(body):
            raise file.changed()
        return proto, parse_json(path, known[KEY])

    @classmethod
    def tensors_in(cls, path: Path, proto: Any) -> dict[str, Tensor]:
        """The tensors that stand in a graph, by name."""
        to_array = cls.library("onnx").numpy_helper.to_array
        try:
            return {one.name: torch.tensor(to_array(one)) for one in proto.graph.initializer}
        except Exception as error:  # of numpy, about bytes of any kind
            raise UsageError(f"{path} is damaged: {first_line(error)}") from None

    def run(self, network: SavedModel, path: Path) -> Callable[[Tensor], Tensor]:
        """The graph in ONNX Runtime, on the CPU."""

        def logits(images: Tensor) -> Tensor:
            try:
                found = session(path).run([OUTPUT], {INPUT: images.numpy()})
            except Exception as error:  # of the runtime, about types and operators of any kind
                reason = first_line(error)
                raise UsageError(f"ONNX Runtime cannot run what was written: {reason}") from error
            return torch.from_numpy(found[0])

        return logits


def session(path: Path | bytes, *, threads: int = 0) -> Any:
    """An ONNX Runtime session of a file, or of its content, on the CPU.

    0 threads: as many as it likes.
    """
    runtime = Onnx.library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    content = path if isinstance(path, bytes) else str(path)
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def seal(proto: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Write a graph with our metadata and a digest of everything."""
    proto.metadata_props.add(key=KEY, value=canonical(metadata))
    content = proto.SerializeToString()
    path.write_bytes(content + digest_of(content))


def digest_of(content: bytes) -> bytes:
    """An entry of metadata with a digest of the content before it, to be put behind that.

    A serialised message behind another is merged with it, so that any reader takes both for one.
    """
    proto = Onnx.library("onnx").ModelProto()
    proto.metadata_props.add(key=f"{KEY}.sha256", value=hashlib.sha256(content).hexdigest())
    return bytes(proto.SerializeToString())


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the exporter's remarks about its own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
