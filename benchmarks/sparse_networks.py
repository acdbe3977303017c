"""Pruned networks for sparse.py, and how torch, ONNX Runtime and we run them.

Networks that nobody trained have random weights, of which the largest of each layer are kept. The
norms' weights are drawn, too (timm's start at zero), and their statistics are those of a batch of
random images under the masks, so that signals neither die nor explode.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustprune.artifacts.backends.base import example_images
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.inference import sparse
from robustprune.inference.timing import torch_threads
from robustprune.masking import allocations, attach, select, structures
from robustprune.models import create_model
from robustprune.seeding import fork
from robustprune.timing import Passes, alternate, passes

NETWORKS: dict[str, dict[str, Any]] = {
    "vgg16_bn_cifar": {"num_classes": 10},
    "resnet18_cifar": {"num_classes": 10},
    "wrn_28_4": {"num_classes": 10},
    "resnet50": {"num_classes": 1000},
}
"""Names, and what else `create_model` is told."""
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


class Network:
    """A network that is made or read when it is needed.

    Args:
        source: one of `NETWORKS`, or a model file.
        density: of one that is made.
    """

    def __init__(self, source: str | Path, density: float = 1.0) -> None:
        self.source, self.density = source, density

    @cached_property
    def saved(self) -> SavedModel:
        """The network, in eval mode, without gradients of its own."""
        made = isinstance(self.source, str)
        saved = magnitude(self.source, self.density) if made else read_model(self.source)
        saved.model.eval().requires_grad_(False)
        return saved

    @property
    def key(self) -> dict[str, Any]:
        """What names it in a record: architecture, density, and how its masks were found."""
        if isinstance(self.source, str):
            return {"network": self.source, "density": self.density, "masks": "random weights"}
        about = self.saved.metadata
        found = {"network": about["model"]["name"], "density": about.get("density", 1.0)}
        return {**found, "masks": about.get("network", self.source.stem)}

    def images(self, batch: int) -> Tensor:
        """Random images of its size."""
        return example_images(self.saved, batch)

    def dense(self, layout: str) -> nn.Module:
        """A copy for torch, which multiplies zeros like other weights."""
        return copy.deepcopy(self.saved.model).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]

    def export(self, path: Path) -> None:
        """Write it as ONNX of opset 13, which every peer knows, for any batch size."""
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                self.saved.model,
                (self.images(2),),
                str(path),
                opset_version=13,
                dynamo=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            )


def networks(names: list[str], densities: list[float], files: list[Path]) -> Iterator[Network]:
    """The networks of files, or if there are none, one of each name and density."""
    yield from map(Network, files)
    for name in [] if files else names:
        for density in densities:
            yield Network(name, density)


def magnitude(name: str, density: float) -> SavedModel:
    """A network of random weights, the largest of each layer kept."""
    options = {"name": name, **NETWORKS[name]}
    with fork(0, name):
        model = create_model(**options)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
                module.momentum = 1.0  # statistics of the last batch alone
        masked = attach(model)
        masks = select(
            {name: weight.detach().abs() for name, weight in masked.weights.items()},
            density,
            allocation=allocations.create("uniform"),
            structure=structures.create("weight"),
        )
        masked.set(masks)
        about = {"model": options, "density": density}
        with torch.no_grad():
            model.train()(example_images(SavedModel(model, {}, about), 32))
        return SavedModel(model, masked.bake(), about)


def ours(network: Network, images: Tensor, threads: int) -> nn.Module:
    """Our side, for batches of such a size."""
    with torch_threads(threads):
        return sparse(network.saved.model, images, threads=threads)


def onnx_runtime(path: Path, images: Tensor, threads: int) -> Callable[[], np.ndarray]:
    """A pass of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    array = images.numpy()
    return lambda: session.run(["logits"], {"images": array})[0]


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """A pass of a module."""
    with torch.no_grad():
        return model(images)


def gradient(model: nn.Module, images: Tensor) -> Tensor:
    """A pass, and one back to the images."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        found = model(x)
        weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
        return torch.autograd.grad(found, x, weights)[0]


def faster_torch(
    network: Network, images: Tensor, threads: int, call: Callable[[nn.Module, Tensor], object]
) -> tuple[str, nn.Module, Tensor]:
    """The layout in which torch makes a call sooner, and network and images in it."""
    found = {
        layout: (network.dense(layout), images.to(memory_format=LAYOUTS[layout]))
        for layout in LAYOUTS
    }
    sides = {layout: timed(partial(call, *side), threads) for layout, side in found.items()}
    times = alternate(sides, rounds=3, seconds=0)
    best = min(times, key=lambda layout: statistics.median(times[layout]))
    return best, *found[best]


def timed(call: Callable[[], object], threads: int) -> Passes:
    """Passes of a call, with so many threads of torch's."""

    def run(count: int) -> list[float]:
        with torch_threads(threads):
            return list(passes(call)(count))

    return run
