"""How small packed files are, what half precision costs, and whether ONNX Runtime agrees.

    python benchmarks/exports.py
    python benchmarks/exports.py --run runs/cifar10-cnn-small-trades/<id>

Every backbone is masked at random, which is the hardest to pack, at three densities. With --run the
networks of a run on CIFAR-10 are packed, too; their accuracy with half-precision values stands
beside the exact one, on its first 1,000 test images. ONNX Runtime is compared with PyTorch on the
same images. Results go to benchmarks/results/exports/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustprune.artifacts.backends import create as create_backend
from robustprune.artifacts.backends.onnx import session
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import dense_bytes, information_bound
from robustprune.datasets import create as create_dataset
from robustprune.masking import allocations, attach, select, structures
from robustprune.models import BACKBONES, create_model
from robustprune.pipeline.evaluate import evaluate_saved, parts_of
from robustprune.seeding import fork
from robustprune.tracking import Console

RESULTS = Path(__file__).parent / "results" / "exports"
DENSITIES = (0.1, 0.05, 0.01)
ONNX = ("cnn_small", "cnn_large", "vgg16_bn_cifar", "resnet18_cifar", "wrn_28_4")
IMAGES = 1000


def main() -> None:
    arguments = _arguments()
    networks = _trained(arguments.run)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            *(
                _packed(name, density, Path(folder))
                for name in sorted(BACKBONES)
                for density in DENSITIES
            ),
            *(_row(name, saved, Path(folder)) for name, saved in networks.items()),
        ]
        halves = [_half(name, saved, Path(folder)) for name, saved in networks.items()]
        images = _images()
        untrained = {name: _network(name, 1.0) for name in ONNX}
        agree = [_onnx(n, s, images, Path(folder)) for n, s in {**untrained, **networks}.items()]
    found = {"environment": _environment(), "packed": rows, "fp16": halves, "onnx": agree}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "exports.json").write_text(json.dumps(found, indent=1) + "\n")
    text = _report(found, arguments.run)
    (RESULTS / "README.md").write_text(text)
    print(text)


def _network(name: str, density: float) -> SavedModel:
    grey = name == "cnn_digits"
    shape = {"in_chans": 1, "image_size": 8} if grey else {"in_chans": 3, "image_size": 32}
    options = {"name": name, "num_classes": 10, **shape}
    with fork(0, name):
        model = create_model(**options).eval()
        masked = attach(model)
        masked.set(
            select(
                {name: torch.rand_like(weight) for name, weight in masked.weights.items()},
                density,
                allocation=allocations.create("uniform"),
                structure=structures.create("weight"),
            )
        )
        masks = masked.bake()
    return SavedModel(model, masks, {"model": options, "density": density})


def _packed(name: str, density: float, folder: Path) -> dict[str, Any]:
    return _row(f"{name}, {density:g}", _network(name, density), folder)


def _row(name: str, saved: SavedModel, folder: Path) -> dict[str, Any]:
    path = folder / "net.safetensors"
    start = time.perf_counter()
    create_backend("packed").write(saved, path)
    packing = time.perf_counter() - start
    start = time.perf_counter()
    read_model(path)
    size, bound = path.stat().st_size, information_bound(saved)
    return {
        "network": name,
        "dense": dense_bytes(saved),
        "bound": round(bound),
        "packed": size,
        "of_bound": size / bound,
        "of_dense": size / dense_bytes(saved),
        "seconds_to_pack": packing,
        "seconds_to_load": time.perf_counter() - start,
    }


def _half(name: str, saved: SavedModel, folder: Path) -> dict[str, Any]:
    """Accuracy before and after rounding, on the same images under the same attack."""
    path = folder / "half.safetensors"
    create_backend("packed", values="fp16").export(saved, path)
    attack = {"name": "pgd", "eps": "2/255", "steps": 20}
    asked = [{"name": "clean", "samples": IMAGES}, {**attack, "samples": IMAGES}]
    row: dict[str, Any] = {"network": name, "bytes": path.stat().st_size}
    for label, network in (("fp32", saved), ("fp16", read_model(path))):
        data, evaluators = parts_of(saved.metadata, evaluators=asked)
        tasks = {"network": (network, data, evaluators)}
        judged = evaluate_saved(tasks, seed=0, console=Console(quiet=True))["network"]
        row |= {f"{metric}_{label}": judged.metrics[metric] for metric in ("clean", "pgd")}
    return row


def _onnx(name: str, saved: SavedModel, images: Tensor, folder: Path) -> dict[str, Any]:
    path = folder / "net.onnx"
    create_backend("onnx").export(saved, path)
    running, logits = session(path), []
    with torch.no_grad():
        for batch in images.split(250):
            (found,) = running.run(["logits"], {"images": batch.numpy()})
            logits.append((torch.from_numpy(found), saved.model(batch)))
    theirs, ours = (torch.cat(parts) for parts in zip(*logits, strict=True))
    return {
        "network": name,
        "largest_difference": float((theirs - ours).abs().max()),
        "otherwise_classified": int((theirs.argmax(1) != ours.argmax(1)).sum()),
        "images": len(images),
    }


def _trained(run: Path | None) -> dict[str, SavedModel]:
    paths = sorted(run.glob("*/model.safetensors")) if run else []
    return {f"trained {path.parent.name}": read_model(path) for path in paths}


def _images() -> Tensor:
    test = create_dataset("cifar10").load(seed=0, train=False).test
    return torch.cat([images for images, _ in test.ordered(250, limit=IMAGES)])


def _environment() -> dict[str, Any]:
    names = ("torch", "numpy", "zstandard", "safetensors", "onnx", "onnxruntime")
    versions = {name: metadata.version(name) for name in names}
    return {**versions, "threads": torch.get_num_threads()}


def _report(found: dict[str, Any], run: Path | None) -> str:
    trained = found["packed"][-1]["network"].startswith("trained")
    source = f" --run {run.name}" if run else ""
    versions = ", ".join(f"{key} {value}" for key, value in found["environment"].items())
    lines = ["# Exports", "", f"`python benchmarks/exports.py{source}`. {versions}.", ""]
    lines += [
        "Packed files, bytes; the bound is 4 bytes a kept value, the entropy of the positions,"
    ]
    lines += [
        "and the bytes of all other tensors. Backbones are untrained and masked at random.",
        "",
    ]
    heads = [
        "network",
        "dense",
        "bound",
        "packed",
        "of bound",
        "of dense",
        "s to pack",
        "s to load",
    ]
    lines += _table(heads, ([
        r["network"], f"{r['dense']:,}", f"{r['bound']:,}", f"{r['packed']:,}",
        f"{r['of_bound']:.3f}", f"{r['of_dense']:.2%}",
        f"{r['seconds_to_pack']:.2f}", f"{r['seconds_to_load']:.2f}",
    ] for r in found["packed"]))  # fmt: skip
    if trained:
        lines += ["", f"Half-precision values, accuracy on {IMAGES:,} test images:", ""]
        heads = ["network", "bytes", "clean fp32", "clean fp16", "PGD-20 fp32", "PGD-20 fp16"]
        keys = ("clean_fp32", "clean_fp16", "pgd_fp32", "pgd_fp16")
        lines += _table(
            heads,
            (
                [r["network"], f"{r['bytes']:,}", *(f"{r[k]:.3f}" for k in keys)]
                for r in found["fp16"]
            ),
        )
    lines += ["", "ONNX Runtime against PyTorch on CIFAR-10's first test images:", ""]
    lines += _table(["network", "largest difference of logits", "images classified otherwise"], ([
        r["network"], f"{r['largest_difference']:.1e}",
        f"{r['otherwise_classified']} of {r['images']:,}",
    ] for r in found["onnx"]))  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    cells = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return [f"| {' | '.join(row)} |" for row in cells]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, metavar="DIR", help="a run folder on CIFAR-10")
    return parser.parse_args()


if __name__ == "__main__":
    main()
