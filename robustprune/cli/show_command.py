"""``robustprune show``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from robustprune.errors import UsageError
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Show what a path holds."""
    path: Path = arguments.path
    console = Console()
    if path.is_dir():
        _run_folder(console, path)
    elif path.suffix in (".yaml", ".yml"):
        from robustprune.recipe import load_recipe
        from robustprune.recipe.document import dump

        console.info(dump(load_recipe(path, arguments.overrides).document()))
    else:
        _model(console, path)


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


def _model(console: Console, path: Path) -> None:
    from robustprune.artifacts.dense import read_model
    from robustprune.masking import prunable_layers
    from robustprune.recipe.document import dump

    saved = read_model(path)
    console.info(dump(saved.metadata))
    rows = []
    for name, layer in prunable_layers(saved.model).items():
        mask = saved.masks.get(f"{name}.weight")
        total = layer.weight.numel()
        kept = total if mask is None else int(mask.sum())
        shape = "×".join(map(str, layer.weight.shape))
        rows.append([name, shape, f"{kept:,}", f"{total:,}", f"{kept / total:.4g}"])
    console.table("prunable layers", ["layer", "shape", "kept", "of", "density"], rows)
