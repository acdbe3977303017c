"""What training, pruning and judging ResNet-50 on ImageNet would take on 1, 8 and 64 GPUs.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --costs FILE --gpu-flops 67e12 --out DIR    # another GPU, fp32

No GPU is needed: scaling_costs.py and scaling_rest.py measure what the steps of the paper's recipe
consist of, on this machine, and scaling_model.py makes times of it, for the GPUs and links that the
options describe. Where there is a GPU, its efficiency is measured. Results go to
benchmarks/results/scaling/, and the tables from there into docs/how-to/scale.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import scaling_costs
import scaling_rest
import torch
from ratio import table
from scaling_model import Cluster, Gpu, Link
from scaling_tables import Study, tables

import robustprune as rp
from robustprune.pipeline.results import environment

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "paper" / "imagenet_resnet50_free.yaml"
TRAINING, TEST = 1_281_167, 50_000
PEAKS = {"fp32": 19.5e12, "bf16": 312e12}
"""Of an A100, without TF32, which the framework turns off: NVIDIA's data sheet (A100 80GB SXM)."""
EFFICIENCIES = {"fp32": 0.57, "bf16": 0.19}
"""367 images a second of a V100's 15.7e12 in fp32, 2,470 of an A100's 312e12 in mixed precision, at
24.5e9 operations each: NVIDIA's DeepLearningExamples, ResNet50 v1.5 for PyTorch, README."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document: dict[str, Any] = {
        "command": " ".join(["python benchmarks/scaling.py", *_shown()]),
        "environment": environment(device),
        "note": arguments.note,
    }
    if arguments.costs:
        recorded = json.loads(arguments.costs.read_text())
        document |= {key: recorded[key] for key in ("environment", "note", "measured")}
        more = f"; {document['command']} --costs FILE" if _shown() else ""
        document["command"] = recorded["command"] + more
    else:
        document["measured"] = measure(arguments, device)
    document["assumed"] = assumptions(arguments, document)
    document["tables"] = tables(study(document, _recipe(arguments)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "scaling.json").write_text(json.dumps(document, indent=1) + "\n")
    page = report(document)
    (arguments.out / "README.md").write_text(page)
    print(page, flush=True)


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """All that the model is fed with."""
    recipe = _recipe(arguments)
    size, rounds = arguments.size, arguments.rounds
    phases: dict[str, Any] = {}
    measured: dict[str, Any] = {"batch": arguments.batch}
    for setting in scaling_costs.settings(recipe, device=device):
        name = setting.stage.name
        options = {"batch": arguments.batch, "size": size, "rounds": rounds}
        phases[name] = found = scaling_costs.measure(setting, **options)
        kept = {"noise": found["noise"], "batch": setting.options.batch_size, "rounds": rounds}
        found["state"] = scaling_rest.keeping(setting, **kept)
        if name == "finetune":
            (attack,) = [part for part in recipe.evaluate if part.registered_name == "pgd"]
            measured["attack"] = scaling_rest.judging(setting.model, attack, size=size)
    measured["phases"] = phases
    measured["reading"] = scaling_rest.reading(files=arguments.files, size=size, rounds=rounds)
    epoch = {"images": TRAINING, "batch": recipe.pretrain.batch_size}
    measured["drawing"] = scaling_rest.drawing(**epoch, size=size, rounds=rounds)
    return measured


def assumptions(arguments: argparse.Namespace, document: dict[str, Any]) -> dict[str, Any]:
    """The machines: as the options say, but where a GPU was measured, with what it reached."""
    keys = ("launch", "bare", "nvlink", "nvlink_latency", "network", "network_latency", "readers")
    gpus = {p: {"flops": PEAKS[p], "efficiency": EFFICIENCIES[p]} for p in PEAKS}
    if arguments.gpu_flops:
        gpus = {"fp32": {**gpus["fp32"], "flops": arguments.gpu_flops}}
    if arguments.efficiency:
        gpus["fp32"]["efficiency"] = arguments.efficiency
    elif document["environment"]["device"] != "cpu":
        step = document["measured"]["phases"]["pretrain"]
        reached = step["flops"] * document["measured"]["batch"] / step["seconds"]
        gpus["fp32"]["efficiency"] = reached / gpus["fp32"]["flops"]
    return {"gpus": gpus, **{key: getattr(arguments, key) for key in keys}}


def study(document: dict[str, Any], recipe: Any) -> Study:
    """What the tables tell of, from a results file and the recipe."""
    assumed = document["assumed"]
    clusters = {
        precision: Cluster(
            gpu=Gpu(**gpu, launch=assumed["launch"], bare=assumed["bare"]),
            inside=Link(assumed["nvlink"], assumed["nvlink_latency"]),
            network=Link(assumed["network"], assumed["network_latency"]),
            readers=assumed["readers"],
        )
        for precision, gpu in assumed["gpus"].items()
    }
    return Study(document["measured"], clusters, recipe, TRAINING, TEST)


def report(document: dict[str, Any]) -> str:
    """The page: what was measured and assumed, and what follows."""
    versions = ", ".join(f"{key} {value}" for key, value in document["environment"].items())
    about = (
        "Times are a model's ([scaling_model.py](../../scaling_model.py)), from costs that were "
        "measured on the machine above; **no GPU was used**. Operations, operators and bytes are "
        "counts; seconds of reading, drawing and saving are this machine's."
    )
    lines = ["# Growth with GPUs", f"`{document['command']}`", f"{versions}.", document["note"]]
    lines += [about]
    for found in document["tables"].values():
        rows, numbers = found["rows"], found["numbers"]
        lines += [f"## {found['title']}", table(found["columns"], rows, numbers=numbers)]
    return "\n\n".join(line for line in lines if line) + "\n"


def _shown() -> list[str]:
    """The options that the numbers depend on."""
    words = sys.argv[1:]
    for option in ("--note", "--out", "--costs"):
        if option in words:
            place = words.index(option)
            words = words[:place] + words[place + 2 :]
    return words


def _recipe(arguments: argparse.Namespace) -> Any:
    overrides = ["model=test_resnet", "data.classes=10"] if arguments.quick else []
    return rp.load_recipe(RECIPE, overrides)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny network on small images, to try it out")
    add("--costs", type=Path, metavar="FILE", help="take what was measured from this scaling.json")
    add("--threads", type=int, default=2)
    add("--batch", type=int, default=4, help="images of a step that is measured")
    add("--rounds", type=int, default=3, help="how often each is clocked")
    add("--files", type=int, default=100, help="JPEGs that are read")
    add("--size", type=int, help="height and width of images (default: 224, quick: 64)")
    add("--gpu-flops", type=float, help="peak operations a second in fp32 (default: an A100's)")
    add("--efficiency", type=float, help="share of the peak that training reaches")
    add("--launch", type=float, default=30e-6, help="seconds to run a layer's operator")
    add("--bare", type=float, default=10e-6, help="seconds to launch an operator that stands alone")
    add("--nvlink", type=float, default=230e9, help="bytes a second of a ring in a machine")
    add("--nvlink-latency", type=float, default=5e-6, help="seconds a hop")
    add("--network", type=float, default=12.5e9, help="bytes a second of a machine's network")
    add("--network-latency", type=float, default=15e-6, help="seconds a hop")
    add(
        "--readers", type=int, default=4, help="cores that read images, a GPU: the recipe's workers"
    )
    add("--note", default="", help="a sentence for the page, e.g. that the machine was busy")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "scaling")
    arguments = parser.parse_args()
    arguments.size = arguments.size or (64 if arguments.quick else 224)
    return arguments


if __name__ == "__main__":
    main()
