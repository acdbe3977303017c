"""Show a recipe, a model file or a run folder.

Of a recipe: every option, defaults included. Of a model file: architecture, layers, densities,
sizes, where it comes from and what was measured. Of a run folder: its table.

  robustprune show my.yaml --set seed=1
  robustprune show runs/quickstart/<id>/hydra-0.01/model.safetensors
  robustprune show runs/quickstart/<id>
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.cli import typed
from robustprune.cli.arguments import add_imports, add_network, add_overrides
from robustprune.errors import UsageError

if TYPE_CHECKING:  # torch and rich come with them
    from robustprune.pipeline import RunResult
    from robustprune.tracking import Console


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "a recipe (its file or its name), a model.safetensors, or a run folder"
    parser.add_argument("path", type=typed.path, help=text)
    add_overrides(parser)
    add_network(parser)
    add_imports(parser)


def command(arguments: Namespace) -> None:
    """Show what a path holds."""
    from robustprune.pipeline import RunResult
    from robustprune.recipe import load_recipe
    from robustprune.recipe.document import dump
    from robustprune.recipe.packaged import find
    from robustprune.report.runs import read_run
    from robustprune.tracking import Console

    path: Path = arguments.path if arguments.path.exists() else find(arguments.path)
    console = Console()
    is_recipe = path.suffix in (".yaml", ".yml") and not path.is_dir()
    if arguments.arch is not None and (path.is_dir() or is_recipe):
        raise UsageError(
            f"--arch is for a file of weights alone, and {path} is none. Leave it out."
        )
    if path.is_dir():
        read_run(path)  # which refuses what was not written by a run
        results = json.loads((path / "results.json").read_text(encoding="utf-8"))
        show_results(console, RunResult(path, results))
    elif is_recipe:
        console.info(dump(load_recipe(path, arguments.overrides).document()))
    else:
        _show_model(console, arguments)


def show_results(console: Console, result: RunResult) -> None:
    """Print the table of a run, the layers that were left dense, and what the columns mean."""
    console.table(result.title, *result.table())
    for line in filter(None, (*result.left_dense, result.legend)):
        console.info(line)
    if any("measures" in entry for entry in result.networks):
        console.table(*result.measures())


def _show_model(console: Console, arguments: Namespace) -> None:
    from robustprune import measures
    from robustprune.artifacts.sizes import information_bound, left_dense
    from robustprune.cli.network import layer_table, open_model
    from robustprune.datasets.base import few
    from robustprune.recipe.document import dump

    arguments.model = arguments.path
    saved = open_model(arguments)
    metadata = dict(saved.metadata)
    if classes := metadata.get("classes"):  # on one line, the first of many
        metadata["classes"] = f"{len(classes):,}: {few(classes, most=20)}"
    console.info(dump(metadata))
    console.table("prunable layers", *layer_table(saved))
    if names := left_dense(saved):
        console.info(f"layers left dense: {', '.join(names)}")
    if getattr(saved.model, "quantised", False):  # the file's own graph, not these tensors
        console.info(f"quantised: {arguments.model.stat().st_size:,} bytes, the whole file")
        return
    size = measures.measure(saved, [measures.Size()], shape=(1, 1, 1))["size"]
    sizes = {
        "dense": size["bytes_dense"],
        "packed": size["bytes_packed"],
        "information bound": round(information_bound(saved)),
    }
    rows = [[name, f"{n:,}", f"{n / sizes['dense']:.2%}"] for name, n in sizes.items()]
    console.table("sizes", ["as", "bytes", "of dense"], rows)
