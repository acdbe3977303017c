"""Measures: numbers of a whole network, with nothing trained or changed.

An evaluator judges images one by one; a measure is one value, or a few, of the network itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import dense_bytes, kept_weights, packed_bytes
from robustprune.components import Part
from robustprune.masking import prunable_layers
from robustprune.registry import Registry
from robustprune.train_mode import eval_mode

__all__ = ["Measure", "create", "get", "measure", "names", "register", "table"]

Values = dict[str, Any]
"""Numbers, words and small tables by name, as JSON knows them."""


class Measure(Part):
    """Measures a baked network."""

    def measure(self, saved: SavedModel, image: Tensor) -> Values:
        """Measure a network.

        Args:
            saved: the network, in eval mode, and its masks; no gradients are recorded.
            image: ``(1, channels, height, width)``, of the size that the network takes, on its
                device.

        Returns:
            Finite numbers by name, each a column in tables and ``final/<measure>/<name>`` in
            MLflow; beside them words and mappings, which stand in ``results.json`` only.
        """
        raise TypeError(f"{type(self).__name__} must define measure(saved, image)")


registry: Registry[Measure] = Registry("measures", base=Measure, modules=[])
register, create, names, get = registry.register, registry.create, registry.names, registry.get


@register("size")
class Size(Measure):
    """Parameters and bytes: of dense tensors, and of those tensors as a packed file has them."""

    def measure(self, saved: SavedModel, image: Tensor) -> Values:
        """Count; the image plays no part.

        Returns:
            ``parameters``, and ``kept``: those that no mask prunes, biases and norms included.
            ``bytes_dense``: of all tensors, zeros included. ``bytes_packed``: of the packed file's
            content without the network's provenance.
        """
        pruned = sum(layer.total - layer.kept for layer in kept_weights(saved))
        parameters = sum(parameter.numel() for parameter in saved.model.parameters())
        return {
            "parameters": parameters,
            "kept": parameters - pruned,
            "bytes_dense": dense_bytes(saved),
            "bytes_packed": packed_bytes(replace(saved, metadata={})),
        }


@register("flops")
class Flops(Measure):
    """Multiply-adds per image: all of them, and without those by pruned weights.

    Counted are matrix products and convolutions, by torch's `FlopCounterMode`; biases, norms and
    activations are not. How much of the sparse count is saved depends on the runtime.
    """

    def measure(self, saved: SavedModel, image: Tensor) -> Values:
        """Count while one image passes.

        Returns:
            ``macs_dense`` and ``macs_sparse``, and ``layers``: these two of each prunable layer.
        """
        from torch.utils.flop_counter import FlopCounterMode  # 0.3 s, for which no recipe waits

        layers = prunable_layers(saved.model)
        dense = dict.fromkeys(layers, 0)

        def count(name: str, layer: nn.Module, args: Any, output: Tensor) -> None:
            weight = layers[name].weight
            dense[name] += output.numel() // len(weight) * weight.numel()

        with ExitStack() as hooks, FlopCounterMode(display=False) as counter:
            for name, layer in layers.items():
                hooks.callback(layer.register_forward_hook(partial(count, name)).remove)
            saved.model(image)
        total = counter.get_total_flops() // 2
        sparse = {one.name: dense[one.name] * one.kept // one.total for one in kept_weights(saved)}
        return {
            "macs_dense": total,
            "macs_sparse": total - sum(dense.values()) + sum(sparse.values()),
            "layers": {n: {"macs_dense": dense[n], "macs_sparse": sparse[n]} for n in layers},
        }


@register("latency")
class Latency(Measure):
    """Time of a forward pass by torch on this machine, zeros multiplied like other weights."""

    batch_size: int = Field(1, ge=1)
    """Images that pass at once."""
    repeats: int = Field(20, ge=1)
    """Timed passes, of which the median counts, after a few that are not timed."""

    def measure(self, saved: SavedModel, image: Tensor) -> Values:
        """Time it.

        Returns:
            ``milliseconds`` per batch and ``milliseconds_per_image``; with ``batch_size``,
            ``threads`` and ``device``, on which they depend.
        """
        images = image.expand(self.batch_size, -1, -1, -1).contiguous()
        wait: Callable[[], None] = torch.cuda.synchronize if images.is_cuda else lambda: None
        for _ in range(3):
            saved.model(images)
        times = []
        for _ in range(self.repeats):
            wait()
            began = time.perf_counter()
            saved.model(images)
            wait()
            times.append(time.perf_counter() - began)
        milliseconds = 1000 * statistics.median(times)
        return {
            "milliseconds": milliseconds,
            "milliseconds_per_image": milliseconds / self.batch_size,
            "batch_size": self.batch_size,
            "threads": torch.get_num_threads(),
            "device": str(image.device),
        }


def measure(
    saved: SavedModel, measures: Sequence[Measure], *, shape: Sequence[int]
) -> dict[str, Values]:
    """Measure a network, whose images are ``(channels, height, width)``, on the device it is on.

    Returns:
        The values of each measure, by its registered name.
    """
    device = next((tensor.device for tensor in saved.model.parameters()), torch.device("cpu"))
    image = torch.full((1, *shape), 0.5, device=device)
    with eval_mode(saved.model), torch.no_grad():
        return {part.registered_name: part.measure(saved, image) for part in measures}


def table(
    networks: Mapping[str, Mapping[str, Values]],
) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows for people: the numbers of each network, by its name."""
    found = {
        name: {k: v for of in values.values() for k, v in of.items() if isinstance(v, int | float)}
        for name, values in networks.items()
    }
    columns = list(dict.fromkeys(key for numbers in found.values() for key in numbers))
    shown = {
        name: {k: f"{v:,}" if isinstance(v, int) else f"{v:.4g}" for k, v in numbers.items()}
        for name, numbers in found.items()
    }
    rows = [[name, *(texts.get(key, "–") for key in columns)] for name, texts in shown.items()]
    return "measures; macs are multiply-adds per image", ["network", *columns], rows
