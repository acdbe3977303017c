"""``robustprune show``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from robustprune.errors import UsageError
from robustprune.tracking import Console

_RECIPES = (".yaml", ".yml")


def command(arguments: Namespace) -> None:
    """Show what a path holds."""
    path: Path = arguments.path
    console = Console()
    if arguments.arch is not None and (path.is_dir() or path.suffix in _RECIPES):
        raise UsageError(
            f"--arch is for a file of weights alone, and {path} is none. Leave it out."
        )
    if path.is_dir():
        _run_folder(console, path)
    elif path.suffix in _RECIPES:
        from robustprune.recipe import load_recipe
        from robustprune.recipe.document import dump

        console.info(dump(load_recipe(path, arguments.overrides).document()))
    else:
        _model(console, arguments)


def _run_folder(console: Console, path: Path) -> None:
    from robustprune.pipeline import RunResult
    from robustprune.pipeline.folder import read_json

    results = read_json(path / "results.json", None)
    if results is None:
        raise UsageError(f"{path} is no run folder: it has no results.json.")
    try:
        result = RunResult(path, results)
        title, (columns, rows) = result.title, result.table()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{path / 'results.json'} was not written by a run ({type(error).__name__}: {error})."
        ) from None
    console.table(title, columns, rows)
    for line in result.left_dense:
        console.info(line)
    if result.legend:
        console.info(result.legend)


def _short(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata to look at: the names of the classes on one line, the first of many."""
    from robustprune.datasets.base import few

    classes = metadata.get("classes")
    if not classes:
        return metadata
    return {**metadata, "classes": f"{len(classes):,}: {few(classes, most=20)}"}


def _model(console: Console, arguments: Namespace) -> None:
    from robustprune.artifacts.packed import packed_bytes
    from robustprune.artifacts.sizes import dense_bytes, information_bound, left_dense
    from robustprune.cli.layers import layer_table
    from robustprune.cli.opening import open_model
    from robustprune.recipe.document import dump

    saved = open_model(Namespace(**{**vars(arguments), "model": arguments.path}))
    console.info(dump(_short(saved.metadata)))
    console.table("prunable layers", *layer_table(saved))
    if names := left_dense(saved):
        console.info(f"layers left dense: {', '.join(names)}")
    dense = dense_bytes(saved)
    sizes = {
        "dense": dense,
        "packed": packed_bytes(saved),
        "information bound": round(information_bound(saved)),
    }
    rows = [[name, f"{size:,}", f"{size / dense:.2%}"] for name, size in sizes.items()]
    console.table("sizes", ["as", "bytes", "of dense"], rows)
