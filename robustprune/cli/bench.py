"""Time a saved network on this CPU: by torch, by ONNX Runtime and by our sparse kernels.

They take turns on random images, so that they share what else the machine does. The sparse kernels
leave pruned weights out, torch and ONNX Runtime multiply their zeros. ONNX Runtime runs what
`export --format onnx` writes; where it is not installed, that is said.

  robustprune bench runs/quickstart/<id>/hydra-0.01/model.safetensors
  robustprune bench model.safetensors --batch 1,8,128 --threads 2
  robustprune bench weights.pt --arch resnet18 --data cifar10
  robustprune bench model.safetensors --json speed.json

Prints weights, bytes and multiply-adds; milliseconds of a batch, images a second, and how many
times as fast as torch each one is; and for each layer the times of torch's kernels and of the
sparse ones, between which was chosen: a layer that does not gain stays torch's.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from robustprune.cli import typed
from robustprune.cli.arguments import (
    MODEL,
    add_imports,
    add_network,
    check_writable,
    option,
    writing,
)
from robustprune.errors import UsageError
from robustprune.files import write_json

if TYPE_CHECKING:  # heavy: --help imports this file
    from robustprune.masking import LayerReport
    from robustprune.tracking import Console


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("model", type=typed.path, metavar="MODEL", help=MODEL)
    text = "images at once, each number measured apart (default: 1,32)"
    option(parser, "--batch N,…", text, type=typed.positives, default=[1, 32])
    option(parser, "--threads N", "CPU threads of each engine (default: as many as are idle)")
    text = "for how long each engine is timed at each batch size (default: 2)"
    option(parser, "--seconds X", text, type=typed.above_zero, default=2)
    add_network(parser)
    add_imports(parser)
    option(parser, "--json FILE", "write the numbers there too")


def command(arguments: Namespace) -> None:
    """Time a network, and print what its size and its layers are."""
    from robustprune import measures
    from robustprune.artifacts.backends.base import example_images
    from robustprune.artifacts.sizes import kept_weights
    from robustprune.cli.network import open_model
    from robustprune.pipeline.compute import default_threads
    from robustprune.pipeline.speed import measure_speed
    from robustprune.tracking import Console

    if arguments.json is not None:
        check_writable(arguments.json)
    saved = open_model(arguments)
    if getattr(saved.model, "quantised", False):
        raise UsageError(
            f"{arguments.model} is quantised: only ONNX Runtime runs it. Time it with\n"
            f"    robustprune evaluate {arguments.model} --measures latency"
        )
    console = Console()
    shape = tuple(example_images(saved, 1).shape[1:])
    counted = measures.measure(saved, [measures.Size(), measures.Flops()], shape=shape)
    console.table(*measures.table({str(arguments.model): counted}))
    threads = arguments.threads or default_threads()
    options = {"batches": arguments.batch, "threads": threads, "seconds": arguments.seconds}
    found = measure_speed(saved, **options, tell=console.info)
    _show_engines(console, found, threads)
    layers = {layer.name: layer for layer in kept_weights(saved)}
    for one in found:
        _show_layers(console, one, layers)
    if arguments.json is not None:
        about = {"model": str(arguments.model), "image": list(shape), "threads": threads}
        shapes = {name: asdict(layer) for name, layer in layers.items()}
        document = {**about, "measures": counted, "layers": shapes, "batches": found}
        with writing(arguments.json):
            write_json(arguments.json, document)


def _show_engines(console: Console, found: list[dict[str, Any]], threads: int) -> None:
    """Print a row for each batch size and engine, and why one was not measured."""
    from robustprune.pipeline.speed import ENGINES

    rows, missing = [], {}
    for one in found:
        for name, engine in one["engines"].items():
            cells = ["–"] * 3
            if "missing" in engine:
                missing[ENGINES[name]] = engine["missing"]
            else:
                cells = [f"{engine['milliseconds']:.3g}", _rate(engine["images_per_second"])]
                cells += [f"{engine['speedup']:.2f}"]
            stays = name == "sparse" and one["choices"]["network"] != "sparse"
            label = f"{ENGINES[name]}, of which none gains" if stays else ENGINES[name]
            rows.append([str(one["batch"]), label, *cells])
    columns = ["batch", "engine", "milliseconds", "images/s", "times as fast as torch"]
    console.table(f"time of a batch; threads: {threads}", columns, rows)
    for name, reason in missing.items():
        console.info(f"{name} was not measured: {reason}")


def _show_layers(console: Console, one: dict[str, Any], layers: Mapping[str, LayerReport]) -> None:
    """Print what was chosen for each layer, and why the network is not sparse, if it is not."""
    choices, rows = one["choices"], []
    timed = choices.get("layers", {})
    for name, layer in layers.items():
        times = timed.get(name, {})
        cells = [
            f"{times[key]:.3g}" if times.get(key) else "–" for key in ("dense_ms", "sparse_ms")
        ]
        choice = "sparse" if times.get("sparse") else "dense"
        shape = "×".join(map(str, layer.shape))
        rows.append([name, shape, f"{layer.density:.4g}", *cells, choice])
    if timed:
        columns = ["layer", "shape", "density", "dense ms", "sparse ms", "choice"]
        title = f"layers at batch {one['batch']}, timed at {choices['batch']}"
        console.table(title, columns, rows)
    if reason := choices.get("reason"):
        console.info(f"batch {one['batch']}: the network is {choices['network']}: {reason}")


def _rate(images: float) -> str:
    return f"{images:.0f}" if images >= 100 else f"{images:.3g}"
