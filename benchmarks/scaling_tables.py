"""Tables of the model: what it takes, and the hours, steps and memory that follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scaling_growth import growth
from scaling_model import NORM_OPERATORS, Cluster, memory
from scaling_study import WORLDS, Study, shown

NAMES = ("pretrain", "prune", "finetune")
AUTOATTACK = {"images": 5_000, "both": 100 + 9 * 100 + 9 * 100, "forward": 5_000}
"""Passes of the official attack on an image that withstands all: APGD-CE, APGD-T and FAB-T take 100
steps, the latter two at 9 classes, and Square asks 5,000 times."""
GIB = 2**30


def tables(study: Study) -> dict[str, Any]:
    """Each by its name: a title, columns, rows of cells, and how many columns are numbers."""
    return {
        "costs": costs(study),
        "assumed": assumed(study),
        "time": time(study),
        "step": parts(study),
        "memory": spaces(study),
        "growth": growth(study),
    }


def costs(study: Study) -> dict[str, Any]:
    """What a step consists of."""
    found = study.measured["phases"]

    def row(title: str, value: Callable[[dict[str, Any]], float], digits: int = 0) -> list[str]:
        return [title, *(f"{value(found[name]):,.{digits}f}" for name in NAMES)]

    batch = study.measured["batch"]
    rows = [
        row("operations an image, 10⁹", lambda p: p["flops"] / 1e9, 1),
        row("operators a step", lambda p: p["operators"]),
        row("operators of the masks' selection", lambda p: p["selecting"]),
        row("gradients exchanged, MB", lambda p: p["gradients"] / 1e6),
        row("BatchNorm layers", lambda p: p["norms"]),
        row("two numbers a feature of them, MB", lambda p: p["sums"] / 1e6, 2),
        row("weights, MB", lambda p: p["weights"] / 1e6),
        row("scores, MB", lambda p: p["scores"] / 1e6),
        row("masks, now and at first, MB", lambda p: p["masks"] / 1e6),
        row("momenta, MB", lambda p: p["momenta"] / 1e6),
        row("activations an image, fp32, MB", lambda p: p["activations"]["fp32"] / 1e6, 1),
        row("activations an image, bf16, MB", lambda p: p["activations"]["bf16"] / 1e6, 1),
        row("state file after an epoch, MB", lambda p: p["state"]["bytes"] / 1e6),
        row("writing it, s", lambda p: p["state"]["seconds"], 2),
        row("comparing it (SHA-256), s", lambda p: p["state"]["digest"], 2),
        row(f"a step of {batch} images on this CPU, s", lambda p: p["seconds"], 2),
    ]
    return _table("What a step consists of", ["", *NAMES], rows)


def assumed(study: Study) -> dict[str, Any]:
    """What was not measured, or is of no phase."""
    reading, drawing = study.measured["reading"], study.measured["drawing"]
    attack, any_cluster = study.measured["attack"], next(iter(study.clusters.values()))
    inside, network = any_cluster.inside, any_cluster.network
    rows = [
        [f"a GPU's training in {precision}", _rate(c), "its peak · the share of it that is reached"]
        for precision, c in study.clusters.items()
    ]
    kilobytes = f"generated JPEGs of {reading['kilobytes']:.0f} kB on average"
    passes = f"{attack['backward']} forward and backward, {attack['forward']} forward only"
    rows += [
        ["memory of a GPU", f"{any_cluster.gpu.bandwidth / 1e12:g} TB/s", "A100 80GB, data sheet"],
        [
            "running a layer's operator from Python",
            f"{any_cluster.gpu.launch * 1e6:g} µs",
            "assumed",
        ],
        [
            "launching an operator that stands alone",
            f"{any_cluster.gpu.bare * 1e6:g} µs",
            "assumed",
        ],
        ["operators more a synchronised BatchNorm", f"{NORM_OPERATORS}", "read off its code"],
        ["a ring in a machine", f"{inside.bandwidth / 1e9:g} GB/s", "assumed: NVLink, A100"],
        ["a hop in a machine", f"{inside.latency * 1e6:g} µs", "assumed"],
        ["a machine's network", f"{network.bandwidth / 1e9:g} GB/s", "assumed: 100 Gbit/s"],
        ["a hop between machines", f"{network.latency * 1e6:g} µs", "assumed"],
        ["reading, a core", f"{reading['a_second']:.0f} images/s", f"measured: {kilobytes}"],
        ["cores that read, a GPU", f"{any_cluster.readers}", "the recipe's `data.workers`"],
        ["an epoch's order and draws", f"{drawing['order']:.2f} s", "measured"],
        [
            "noise of a whole batch, on a core",
            f"{drawing['noise']:.2f} s",
            "measured; free has none",
        ],
        ["PGD of an image", f"{attack['flops'] / 1e9:.0f}·10⁹ operations", f"counted: {passes}"],
    ]
    return {**_table("What the model takes", ["", "value", "from"], rows), "numbers": 0}


def time(study: Study) -> dict[str, Any]:
    """Hours of each phase, and how much of the GPUs' time was not lost."""
    rows = []
    for precision in study.clusters:
        for name in NAMES:
            epochs = study.recipe.stages[name].epochs
            hours = [study.hours(name, precision, world) for world in WORLDS]
            rows.append([f"{name}, {epochs} epochs, {precision}", *_scaled(hours)])
    hours = [study.attacking(world) for world in WORLDS]
    rows.append([f"PGD of {study.test:,} images", *_scaled(hours)])
    forward = study.measured["phases"]["pretrain"]["forward"]
    operations = AUTOATTACK["both"] * 2 * forward + AUTOATTACK["forward"] * forward
    judged = {"images": AUTOATTACK["images"], "operations": operations}
    hours = [study.judging(world, **judged) for world in WORLDS]
    rows.append([f"AutoAttack of {AUTOATTACK['images']:,} that withstand it", *_scaled(hours)])
    for precision in study.clusters:
        hours = [study.whole(precision, world) for world in WORLDS]
        rows.append([f"**the whole recipe, {precision}**", *_scaled(hours)])
    heads = ["hours, and share of the GPUs' time used", *map(_gpus, WORLDS)]
    return _table("Time", heads, rows)


def parts(study: Study) -> dict[str, Any]:
    """Milliseconds of each part of a prune step."""
    columns, rows = ["a prune step, ms"], []
    found = {}
    for precision in study.clusters:
        for world in WORLDS:
            columns.append(f"{world}, {precision}")
            found[columns[-1]] = study.step("prune", precision, world)
    for part in next(iter(found.values())):
        title = f"**{part}**" if part == "step" else part
        rows.append([title, *(f"{1000 * times[part]:.1f}" for times in found.values())])
    share = [study.step("prune", p, w, synchronised=False) for p in study.clusters for w in WORLDS]
    rows.append(["step, `local` BatchNorm", *(f"{1000 * times['step']:.1f}" for times in share)])
    return _table("Parts of a step", columns, rows)


def spaces(study: Study) -> dict[str, Any]:
    """GiB a GPU."""
    rows = []
    for precision in study.clusters:
        for name in NAMES:
            work, batch = study.work(name, precision), study.recipe.stages[name].batch_size
            sizes = [memory(work, batch=batch, world=world) / GIB for world in WORLDS]
            rows.append([f"{name}, {precision}", *(f"{size:.1f}" for size in sizes)])
    return _table("Memory", ["GiB a GPU", *map(_gpus, WORLDS)], rows)


def _scaled(hours: list[float]) -> list[str]:
    """Hours, and behind those of several GPUs the share of a fair division that is reached."""
    shares = [hours[0] / found / world for found, world in zip(hours, WORLDS, strict=True)]
    rest = zip(hours[1:], shares[1:], strict=True)
    return [shown(hours[0]), *(f"{shown(found)} ({share:.0%})" for found, share in rest)]


def _rate(cluster: Cluster) -> str:
    return f"{cluster.gpu.flops / 1e12:g}·10¹²/s · {cluster.gpu.efficiency:.2g}"


def _gpus(world: int) -> str:
    return f"{world} GPU" if world == 1 else f"{world} GPUs"


def _table(title: str, columns: list[str], rows: list[list[str]]) -> dict[str, Any]:
    return {"title": title, "columns": columns, "rows": rows, "numbers": len(columns) - 1}
