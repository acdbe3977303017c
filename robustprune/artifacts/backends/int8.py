"""Networks quantised to int8 by ONNX Runtime's static quantiser, calibrated on training images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustprune.artifacts.backends import register
from robustprune.artifacts.backends.base import CERTIFICATES, example_images
from robustprune.artifacts.backends.onnx import INPUT, OUTPUT, Onnx, quiet, seal, session
from robustprune.artifacts.checksummed import ModelFile
from robustprune.artifacts.saved import Outline, SavedModel
from robustprune.artifacts.state_dict import fitted
from robustprune.errors import UsageError, first_line
from robustprune.families import family

_QUANTISED = ["Conv", "Gemm", "MatMul"]
_BATCH = 32
_NEAR = 0.5  # share of the logits' size
_DRAWN = ("Bernoulli", "Multinomial")  # and Random…: an attack that draws with them proves nothing


class Quantised(nn.Module):
    """A quantised network, run by ONNX Runtime on the CPU; its gradient is a straight-through one.

    The logits are those of the file, always. Their gradient is that of ``source``, the float
    network of the same quantised weights, at the same images: that of the rounding is 0 wherever
    there is any.
    """

    quantised = True

    def __init__(self, source: nn.Module, content: bytes) -> None:
        super().__init__()
        self.source, self.content = source, content
        self._session: Any = None
        digest = bytearray(hashlib.sha256(content).digest())  # tells files of equal weights apart
        self.register_buffer("digest", torch.frombuffer(digest, dtype=torch.uint8), False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, ``(n, classes)``, of images in [0, 1].

        Raises:
            TypeError: it is traced: the runtime's answers would be taken for constants.
        """
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if traced or not isinstance(images, Tensor):
            raise TypeError("a quantised network is run by ONNX Runtime, and cannot be traced")
        if self._session is None:
            self._session = session(self.content, threads=torch.get_num_threads())
        found = self._session.run([OUTPUT], {INPUT: images.detach().cpu().float().numpy()})[0]
        values = torch.from_numpy(found).to(images.device)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return values
        smooth: Tensor = self.source(images)
        return values + (smooth - smooth.detach())

    def __getstate__(self) -> dict[str, Any]:
        """All but the session, which cannot be copied and is made again."""
        return {**self.__dict__, "_session": None}


@register("int8")
class Int8(Onnx):
    """An ONNX graph whose convolutions and linear layers compute in 8 bits: another network.

    Weights are quantised channel by channel, activations by what they were on training images.
    Nothing that was measured or proved of the float network holds: evaluate the file.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".int8.onnx",)
    calibrated: ClassVar[bool] = True

    samples: int = Field(256, ge=1)
    """Training images, spread over all, whose activations say what 8 bits must hold."""

    @property
    def exact(self) -> bool:
        """Nothing is carried over."""
        return False

    @property
    def tolerance(self) -> float:
        """See `Backend.tolerance`: random images are none that it was calibrated for."""
        return _NEAR

    def metadata(self, network: SavedModel) -> dict[str, Any]:
        """As of any inexact format; of evaluators those that a quantised network can have."""
        about = super().metadata(network)
        known = about.get("evaluate") or []
        left = [one for one in known if one["name"] not in CERTIFICATES]
        attacks = [one for one in left if one["name"] == "pgd"]
        extra = [one | {"name": "transfer"} for one in attacks if not one.get("label")]
        about.pop("calibration", None)
        data = about.get("data") or _calibrating(network)
        data = {key: value for key, value in data.items() if key != "root"}
        return (
            about | ({"evaluate": left + extra} if left else {}) | ({"data": data} if data else {})
        )

    def write(self, network: SavedModel, path: Path) -> list[str]:
        """Write the float graph elsewhere, quantise it, and say in metadata what it was.

        Raises:
            UsageError: the network, or its calibration images, cannot be had.
        """
        onnx, quantization = self.library("onnx"), self.library("onnxruntime.quantization")
        batches = list(_calibration(network, self.samples))
        with TemporaryDirectory(dir=path.parent) as folder, quiet():
            exact, rounded = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
            super().write(network, exact)
            before = onnx.load(exact)
            try:
                quantization.quantize_static(
                    exact,
                    rounded,
                    _reader(quantization, batches),
                    quant_format=quantization.QuantFormat.QDQ,
                    op_types_to_quantize=_QUANTISED,
                    per_channel=True,
                    activation_type=quantization.QuantType.QInt8,
                    weight_type=quantization.QuantType.QInt8,
                )
            except Exception as error:  # of the quantiser, about graphs of any kind
                raise UsageError(f"ONNX Runtime cannot quantise it: {first_line(error)}") from error
            proto = onnx.load(rounded)
        del proto.metadata_props[:]
        used = {one.name for one in proto.graph.initializer}
        quantised = {name.removesuffix("_quantized") for name in used}
        own = set(network.model.state_dict())
        for one in before.graph.initializer:
            if one.name in own and one.name not in used | quantised:
                proto.graph.initializer.append(one)
        count = sum(map(len, batches))
        about = self.metadata(network) | {"masked": sorted(network.masks)}
        seal(proto, path, about | {"values": "int8"})
        return [
            f"Convolutions and linear layers compute in int8, calibrated on {count} "
            f"training images of {_calibrating(network)['name']}; norms stay float. It is another "
            "network: nothing that was measured or certified of the float one holds. Evaluate it.",
            "Input 'images', (batch, channels, height, width) in [0, 1]; output 'logits'; "
            "normalisation inside.",
        ]

    @classmethod
    def recognises(cls, file: ModelFile) -> bool:
        """True of a file of this ending."""
        return file.path.name.endswith(cls.suffixes)

    @classmethod
    def read(cls, file: ModelFile) -> SavedModel:
        """The graph, as a network with a straight-through gradient; see `Quantised`.

        Only operators that ONNX itself defines, that hold no graphs and draw nothing, are run. A
        graph whose logits are not near those of its own weights is refused: attacks would follow
        the gradient of another network, and find it robust.
        """
        path = file.path
        proto, metadata = cls.checked(file)
        for node in proto.graph.node:
            inner = any(one.HasField("g") or one.graphs for one in node.attribute)
            drawn = node.op_type.startswith("Random") or node.op_type in _DRAWN
            if inner or drawn or node.domain not in ("", "ai.onnx"):
                raise UsageError(
                    f"{path} was not read: it runs '{node.op_type}', which ours do not."
                )
        if proto.functions:
            raise UsageError(f"{path} was not read: it defines functions, which ours do not.")
        try:
            tensors = _dequantised(proto, cls.tensors_in(path, proto))
        except (KeyError, IndexError, RuntimeError, ZeroDivisionError) as error:
            raise UsageError(f"{path} is damaged: {first_line(error)}.") from None
        outline = Outline(path, metadata, tensors=len(tensors))
        own = {name: tensors[name] for name in outline.state if name in tensors}
        source = fitted(outline, own).model
        masks = outline.nonzero_masks(source.state_dict())
        model = Quantised(source, path.read_bytes()).eval()
        _compare(path, model, example_images(SavedModel(source, {}, metadata), 2))
        return SavedModel(model, {f"source.{n}": mask for n, mask in masks.items()}, metadata)

    def run(self, network: SavedModel, path: Path) -> Callable[[Tensor], Tensor]:
        """The file, read again."""
        return self.read(ModelFile(path)).model

    def loading(self, network: SavedModel, path: Path) -> str:
        """Code that runs it."""
        return (
            f'session = onnxruntime.InferenceSession("{path.name}")\n'
            'logits = session.run(["logits"], {"images": images})  # numpy, float32, in [0, 1]\n'
            f'# or: robustprune.load_model("{path.name}"), with a straight-through gradient'
        )


def _calibrating(network: SavedModel) -> dict[str, Any]:
    """The dataset of the calibration images: its own, unless another was named."""
    return dict(network.metadata.get("calibration") or network.metadata.get("data") or {})


def _compare(path: Path, model: Quantised, images: Tensor) -> None:
    """Refuse a file whose logits are not near those of its weights, which give the gradient."""
    try:
        with torch.no_grad():
            found, expected = model(images), model.source(images)
            by = float((found - expected).abs().max())
    except Exception as error:  # of the runtime, about graphs of any kind
        raise UsageError(f"{path} cannot be run: {first_line(error)}.") from None
    if not by <= _NEAR * max(1.0, float(expected.abs().max())):
        raise UsageError(
            f"{path} was not read: its logits are not near those of its weights (by {by:.3g}), and "
            "attacks would follow the gradient of another network."
        )


def _calibration(network: SavedModel, samples: int) -> Iterator[Tensor]:
    """Training images of the network's dataset, evenly spread, in batches."""
    about = _calibrating(network)
    if "name" not in about:
        raise UsageError("which images is it to be calibrated on? Name their dataset: --data NAME.")
    splits = (
        family("datasets")
        .create(about.pop("name"), **about)
        .load(seed=int(network.metadata.get("seed", 0)), test=False)
    )
    n = min(samples, len(splits.train))
    chosen = torch.linspace(0, len(splits.train) - 1, n).long()
    for images, _ in splits.train.select(chosen, augment=False).ordered(_BATCH):
        yield images


def _reader(quantization: Any, batches: list[Tensor]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self.left, None)
            return None if images is None else {INPUT: images.numpy()}

    return Reader()


def _dequantised(proto: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a graph, those that it dequantises as the real numbers that they stand for."""
    found = dict(tensors)
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            continue
        values, scale = tensors[node.input[0]], tensors[node.input[1]]
        zero = tensors[node.input[2]] if len(node.input) > 2 else torch.zeros_like(scale)
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        if scale.dim():
            shape = [-1 if place == axis % values.dim() else 1 for place in range(values.dim())]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        real = (values.double() - zero.double()) * scale.double()
        found[node.input[0].removesuffix("_quantized")] = real.float()
    return found
