"""The page of sparse.py: tables of its cells, and which targets they meet."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratio import table
from sparse_limits import page

from robustprune.timing import ratio

EXACT, EXACT_GRADIENT = 1e-5, 1e-4
"""How far our logits and gradients may be from torch's, as a share of their scale."""
NOT_SLOWER = 1.03
TWO_THREADS = 1.7
AGAINST = {
    ("onnxruntime", 1, "vgg16_bn_cifar"): {0.1: 3, 0.05: 5, 0.01: 9},
    ("onnxruntime", 1, "resnet18_cifar"): {0.1: 2.5, 0.05: 4, 0.01: 7},
    ("onnxruntime", 1, "wrn_28_4"): {0.1: 2.5, 0.05: 4, 0.01: 7},
    **{
        (side, batch, network): targets
        for network in ("vgg16_bn_cifar", "resnet18_cifar", "wrn_28_4")
        for side, batch, targets in (
            ("onnxruntime", 32, {0.1: 7, 0.05: 10, 0.01: 20}),
            ("deepsparse", 1, {0.1: 1.3, 0.05: 1.3, 0.01: 1.3}),
            ("deepsparse", 32, {0.1: 1.0, 0.05: 1.0, 0.01: 1.5}),
        )
    },
}
"""How many times as fast as a side ours is to be on one thread: side, batch, network, density."""
PEERS = {"torch": "torch", "onnxruntime": "ONNX Runtime", "deepsparse": "DeepSparse"}
Entry = dict[str, Any]


def entries(path: Path) -> list[Entry]:
    """The cells of a file; a line that a kill cut short is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def report(found: Sequence[Entry]) -> str:
    """All parts, each with its tables."""
    parts = {
        "inference": _inference,
        "attacks": _attacks,
        "smoothing": _smoothing,
        "gradients": _gradients,
        "bf16": _bf16,
        "finetune": _finetune,
        "accuracy": _accuracy,
    }
    texts, passes = [], [entry for entry in found if entry["key"]["part"] == "inference"]
    for name, text in parts.items():
        if own := [entry for entry in found if entry["key"]["part"] == name]:
            texts.append(f"## {name.capitalize()}\n\n{text(own)}")
    if own := [entry for entry in found if entry["key"]["part"] == "limits"]:
        texts.append(f"## Limits\n\n{page(own, passes)}")
    return "\n\n".join(texts)


def _inference(found: Sequence[Entry]) -> str:
    heads = ["network", "masks", "density", "batch", "threads"]
    heads += [f"{name}, ms" for name in (*PEERS.values(), "ours")]
    heads += [f"× {name}" for name in PEERS.values()] + ["error, torch", "error, ours"]
    rows, missing = [], set()
    for entry in found:
        key, times = entry["key"], entry["times"]
        for threads in key["threads"]:
            own = f"ours/{threads}"
            names = [f"{side}/{threads}" for side in PEERS]
            cells = [_ms(times.get(name)) for name in (*names, own)]
            cells += [f"{ratio(times, name, own):.2f}" if name in times else "–" for name in names]
            shown = [*_named(key), str(key["batch"]), str(threads), *cells]
            errors = [f"{entry['differences'][name]:.0e}" for name in (f"torch/{threads}", own)]
            rows.append([*shown, *errors])
        missing |= set(entry["missing"].values())
    about = (
        "Milliseconds of a batch; × is how many times as fast as that side ours is. Torch is the "
        "faster of contiguous and channels-last; ONNX Runtime and DeepSparse run the same file. "
        "Errors are the largest difference from the logits in float64, over the largest logit."
    )
    notes = [about, *(f"Not measured: {reason}." for reason in sorted(missing))]
    verdict = table(["target", "cells", "met", "least", "where not"], _verdicts(found), numbers=0)
    return "\n\n".join([*notes, table(heads, rows, numbers=len(heads) - 2), verdict])


def _verdicts(found: Sequence[Entry]) -> Iterator[list[str]]:
    """Each target, and what it is met by; a cell's figure is a multiple of its target."""
    groups: dict[str, list[tuple[str, float, float]]] = {}
    for entry in found:
        key, times = entry["key"], entry["times"]
        where = f"{key['network']} {key['density']:g} ({key['masks']}), batch {key['batch']}"
        for side, name in PEERS.items():
            targets = AGAINST.get((side, key["batch"], key["network"]), {})
            wanted = next((w for d, w in targets.items() if abs(d - key["density"]) < 0.1 * d), 0)
            if wanted and f"{side}/1" in times:
                target = f"batch {key['batch']}, one thread, against {name}"
                reached = ratio(times, f"{side}/1", "ours/1")
                groups.setdefault(target, []).append((where, reached, wanted))
        for threads in key["threads"]:
            slower = ratio(times, f"ours/{threads}", f"torch/{threads}")
            target = f"at most {NOT_SLOWER} times as long as torch, dense"
            there = f"{where}, threads {threads}"
            groups.setdefault(target, []).append((there, 1 / slower, 1 / NOT_SLOWER))
        if {1, 2} <= set(key["threads"]):
            gain = ratio(times, "ours/1", "ours/2")
            target = f"two threads against one, ≥ {TWO_THREADS} times"
            groups.setdefault(target, []).append((where, gain, TWO_THREADS))
    for target, cells in groups.items():
        missed = [cell for cell in cells if cell[1] < cell[2]]
        least = min(reached / wanted for _, reached, wanted in cells)
        words = [f"{where}: {reached:.2f} of {wanted:.2f}" for where, reached, wanted in missed]
        met = str(len(cells) - len(missed))
        yield [target, str(len(cells)), met, f"{least:.2f} of it", "; ".join(words) or "–"]


def _attacks(found: Sequence[Entry]) -> str:
    heads = ["network", "masks", "density", "attack", "images", "threads", "torch, s", "ours, s"]
    heads += ["× torch", "robust, torch", "robust, ours", "other verdicts"]
    rows = []
    for entry in found:
        key, times, robust = entry["key"], entry["times"], entry["robust"]
        about = [*_named(key), key["attack"], str(key["images"]), str(key["threads"])]
        seconds = [f"{statistics.median(times[side]):.3g}" for side in ("torch", "ours")]
        verdicts = [str(robust["torch"]), str(robust["ours"]), str(entry["different_verdicts"])]
        rows.append([*about, *seconds, f"{ratio(times, 'torch', 'ours'):.2f}", *verdicts])
    about = "PGD-50 and AutoAttack (100 steps), ℓ∞ 8/255. Targets: PGD at 0.01 ≥ 5, AutoAttack at "
    return f"{about}0.05 ≥ 3 times as fast as torch.\n\n{table(heads, rows, numbers=9)}"


def _smoothing(found: Sequence[Entry]) -> str:
    heads = ["network", "masks", "density", "threads", "samples/s, torch", "samples/s, ours"]
    heads += ["× torch", "samples classified otherwise"]
    rows = []
    for entry in found:
        key, times = entry["key"], entry["times"]
        rates = [key["samples"] / statistics.median(times[side]) for side in ("torch", "ours")]
        cells = [str(key["threads"]), *(f"{rate:,.0f}" for rate in rates)]
        other = f"{entry['different_samples']} of {key['samples']:,}"
        rows.append([*_named(key), *cells, f"{ratio(times, 'torch', 'ours'):.2f}", other])
    return f"Target: VGG16 at 0.01 ≥ 8 times as many.\n\n{table(heads, rows, numbers=6)}"


def _gradients(found: Sequence[Entry]) -> str:
    heads = ["network", "masks", "density", "batch", "threads", "torch, ms", "ours, ms", "× torch"]
    rows = []
    for entry in found:
        key, times = entry["key"], entry["times"]
        cells = [str(key["batch"]), str(key["threads"]), _ms(times["torch"]), _ms(times["ours"])]
        errors = [f"{entry['differences'][side]:.0e}" for side in ("torch", "ours")]
        rows.append([*_named(key), *cells, f"{ratio(times, 'torch', 'ours'):.2f}", *errors])
    about = (
        "A pass and one back to the images. Errors are the norm of the difference from float64's "
    )
    heads += ["error, torch", "error, ours"]
    return f"{about}gradient, over its norm.\n\n{table(heads, rows, numbers=8)}"


def _bf16(found: Sequence[Entry]) -> str:
    sides = list(found[0]["times"])
    heads = ["network", "batch", "threads", *(f"{side}, s" for side in sides)]
    rows = []
    for entry in found:
        key, times = entry["key"], entry["times"]
        cells = [key["network"], str(key["batch"]), str(key["threads"])]
        seconds = [f"{statistics.median(times[side]):.3g}" for side in sides]
        gain = ratio(times, _fastest(times, "fp32"), _fastest(times, "bf16"))
        rows.append([*cells, *seconds, f"{gain:.2f}"])
    about = (
        "A TRADES-10 step by the loop; × is the faster layout in fp32 over that in bf16. Target: "
    )
    return f"{about}≥ 1.7.\n\n{table([*heads, '× fp32'], rows)}"


def _finetune(found: Sequence[Entry]) -> str:
    sides = list(found[0]["times"])
    heads = ["network", "density", "batch", "threads", *(f"{side}, s" for side in sides)]
    rows = []
    for entry in found:
        key, times = entry["key"], entry["times"]
        cells = [key["network"], f"{key['density']:g}", str(key["batch"]), str(key["threads"])]
        seconds = [f"{statistics.median(times[side]):.3g}" for side in sides]
        rows.append([*cells, *seconds, f"{ratio(times, _fastest(times, 'torch'), 'ours'):.2f}"])
    about = "A TRADES-10 step by the loop; × torch is of its faster layout. Targets: ≥ 4 at 0.01, "
    return f"{about}≥ 2.5 at 0.05.\n\n{table([*heads, '× torch'], rows)}"


def _accuracy(found: Sequence[Entry]) -> str:
    heads = ["network", "masks", "density", "images", "threads", "largest difference of logits"]
    heads += ["other classes", "of those, beyond rounding"]
    rows = []
    for entry in found:
        key = entry["key"]
        numbers = [f"{entry[name]:g}" for name in ("different_classes", "beyond_rounding")]
        about = [*_named(key), f"{key['images']:,}", str(key["threads"])]
        rows.append([*about, f"{entry['difference']:.0e}", *numbers])
    return table(heads, rows, numbers=6)


def _fastest(times: Mapping[str, Sequence[float]], start: str) -> str:
    """The side of least median, of those whose names start so."""
    sides = [side for side in times if side.startswith(start)]
    return min(sides, key=lambda side: statistics.median(times[side]))


def _named(key: Entry) -> list[str]:
    return [key["network"], key["masks"], f"{key['density']:g}"]


def _ms(times: Sequence[float] | None) -> str:
    return "–" if times is None else f"{1000 * statistics.median(times):.3g}"
