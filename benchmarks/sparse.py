"""Pruned networks on the CPU: our sparse kernels beside torch, ONNX Runtime and DeepSparse.

    python benchmarks/sparse.py
    python benchmarks/sparse.py --deepsparse PYTHON --threads 1,2
    python benchmarks/sparse.py --network runs/…/hydra-0.01/model.safetensors --batches 1,32
    python benchmarks/sparse.py --part attacks --network FILE --data DIR --images 100
    python benchmarks/sparse.py --record        the page of what is in --out; nothing is measured

Parts, one a call:

    inference   passes of whole batches
    attacks     PGD-50 at density 0.01 and AutoAttack at 0.05, of VGG16 or of the files
    smoothing   samples a second of the smoothing certifier at 0.01, of VGG16 or of the files
    gradients   passes, and back to the images
    bf16        TRADES-10 steps of ResNet-18 and VGG16 in bf16 and in fp32, by the project's loop
    finetune    TRADES-10 steps of a pruned VGG16, by that loop, through sparse kernels and not
    accuracy    logits and classes of CIFAR-10's test images, beside dense torch's
    limits      what this CPU could do at best

All sides of a cell take turns in one process (DeepSparse in one of its own, which waits meanwhile);
a ratio is the median of those within each round. PYTHON is an interpreter that has DeepSparse 1.8
(pip install deepsparse==1.8.0, Python 3.11). Torch is the faster of contiguous and channels-last.
Each cell is a line of --out as soon as it is done, and is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sparse_parts
from deepsparse_peer import Peer
from ratio import write
from sparse_networks import (
    NETWORKS,
    Network,
    faster_torch,
    logits,
    networks,
    onnx_runtime,
    ours,
    timed,
)
from sparse_report import EXACT, entries, report

from robustprune.timing import Passes, alternate


def main() -> None:
    arguments = _arguments()
    if arguments.record:
        found = entries(arguments.out)
        command = "python benchmarks/sparse.py --deepsparse PYTHON, and its other parts"
        write("sparse", "Sparse kernels", command, found, report(found))
        return
    done = [entry["key"] for entry in entries(arguments.out)]
    with ExitStack() as stack:
        arguments.peers = {
            threads: stack.enter_context(Peer(arguments.deepsparse, threads))
            for threads in arguments.threads
            if arguments.deepsparse and arguments.part == "inference"
        }
        cells = {"inference": inference, **sparse_parts.PARTS}[arguments.part]
        for about, measure in cells(arguments):
            key = {"part": arguments.part, **about}
            if key in done:
                continue
            entry = {"key": key, **measure()}
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            print(
                json.dumps({k: v for k, v in entry.items() if k not in ("times", "choices")}),
                flush=True,
            )
    found = entries(arguments.out)
    print(report(found))
    if wrong := [entry["key"] for entry in found if entry.get("wrong")]:
        sys.exit(f"beyond rounding: {wrong}")


def inference(
    arguments: argparse.Namespace,
) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """A cell of each network and batch, in which all sides take turns with all threads."""
    for network in networks(arguments.networks, arguments.densities, arguments.network):
        for batch in arguments.batches:
            key = {**network.key, "batch": batch, "threads": arguments.threads}
            key["deepsparse"] = bool(arguments.peers)
            yield key, partial(measured, arguments, network, batch)


def measured(arguments: argparse.Namespace, network: Network, batch: int) -> dict[str, Any]:
    """Seconds of each side's passes, a side being named ``ours/1`` with its threads."""
    images = network.images(batch)
    sides: dict[str, Passes] = {}
    found: dict[str, np.ndarray] = {}
    layouts, missing = {}, {}

    def add(name: str, call: Callable[[], Any]) -> None:
        sides[f"{name}/{threads}"] = timed(call, threads)
        found[f"{name}/{threads}"] = np.asarray(call())

    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        network.export(path)
        for threads in arguments.threads:
            layouts[threads], *torch_side = faster_torch(network, images, threads, logits)
            add("torch", partial(logits, *torch_side))
            add("onnxruntime", onnx_runtime(path, images, threads))
            add("ours", partial(logits, ours(network, images, threads), images))
            if peer := arguments.peers.get(threads):
                try:
                    found[f"deepsparse/{threads}"] = peer.load(path, images.numpy())
                    sides[f"deepsparse/{threads}"] = peer.passes
                except RuntimeError as error:
                    missing[f"deepsparse/{threads}"] = str(error)
        times = alternate(sides, rounds=arguments.rounds, seconds=arguments.seconds)
    exact = logits(copy.deepcopy(network.saved.model).double(), images.double()).numpy()
    scale = np.abs(exact).max()
    differences = {name: float(np.abs(one - exact).max() / scale) for name, one in found.items()}
    wrong = not all(differences[f"ours/{threads}"] <= EXACT for threads in arguments.threads)
    about = {"torch_layouts": layouts, "missing": missing, "differences": differences}
    return {**about, "wrong": wrong, "times": times}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["inference", *sparse_parts.PARTS]
    parser.add_argument("--part", default="inference", choices=parts)
    parser.add_argument("--out", type=Path, default=Path("sparse.jsonl"), metavar="FILE")
    parser.add_argument("--record", action="store_true", help="write results/speed/sparse.*")
    parser.add_argument("--networks", type=_names, default=list(NETWORKS), metavar="NAME,…")
    text = "a model file in their place, e.g. of HYDRA; may be given several times"
    parser.add_argument("--network", type=Path, action="append", default=[], help=text)
    densities = [0.2, 0.1, 0.05, 0.02, 0.01]
    parser.add_argument("--densities", type=_numbers(float), default=densities, metavar="X,…")
    parser.add_argument("--batches", type=_numbers(int), default=[1, 8, 32, 128], metavar="N,…")
    parser.add_argument("--threads", type=_numbers(int), default=[1], metavar="N,…")
    parser.add_argument("--deepsparse", type=Path, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side")
    text = "about how long a turn lasts (default: 0.2); it has one pass at least"
    parser.add_argument("--seconds", type=float, default=0.2, help=text)
    text = "attacked ones, noisy ones, or those of CIFAR-10 whose classes are compared"
    parser.add_argument("--images", type=int, help=text)
    parser.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10")
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(NETWORKS):
        parser.error(f"--networks: {', '.join(unknown)} is none of {', '.join(NETWORKS)}")
    return arguments


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
