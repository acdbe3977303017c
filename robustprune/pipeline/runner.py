"""Running a recipe, from its file to its results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.artifacts.reading import read_model
from robustprune.errors import InvalidError
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.folder import RunFolder
from robustprune.pipeline.images import check_columns
from robustprune.pipeline.job import Job
from robustprune.pipeline.network import initial_network
from robustprune.pipeline.results import RunResult
from robustprune.pipeline.space import Space, check_room, needed
from robustprune.pipeline.weights import check_unchanged, origin
from robustprune.recipe import Recipe, inconsistencies, load_recipe
from robustprune.tracking import RUNS, Console, check_store, open_tracker

if TYPE_CHECKING:
    from torch import nn

    from robustprune.datasets import Splits


def run(
    recipe: str | Path | Recipe,
    *,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    max_steps: int | None = None,
    runs: str | Path = RUNS,
    fresh: bool = False,
    console: Console | None = None,
) -> RunResult:
    """Run a recipe to its end.

    Args:
        recipe: a file, or a recipe already loaded.
        overrides: ``key=value`` changes, as ``--set`` takes them.
        out: the run folder; a new one in ``runs/<recipe name>/`` if absent.
        resume: go on with ``out``, or with the newest unfinished run of this recipe.
        max_steps: cut each phase after so many optimizer steps, to try a recipe out.
        runs: where run folders, shared dense networks and the default MLflow store are kept.
        fresh: train the dense network even if another run has trained the same, and share it not.
        console: where progress is shown.

    Raises:
        UsageError: the recipe, the data or the folder is at fault.
        DivergedError: a loss is NaN, infinite or exploding.
        SoundnessError: an attack broke what a certificate verified. The run is complete, and all
            its files are written.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif problems := inconsistencies(recipe):
        raise InvalidError(problems)
    console, runs = console or Console(), Path(runs)
    out = None if out is None else Path(out)
    check_columns(recipe.evaluate)  # type: ignore[arg-type]
    check_store(recipe.tracking, runs)
    with Compute(recipe.compute) as compute:
        data = recipe.data.load(seed=recipe.seed)  # type: ignore[attr-defined]
        where: dict[str, Any] = {"runs": runs, "out": out, "cut": {"max_steps": max_steps}}
        folder = RunFolder.reopen(recipe, **where) if resume else None
        with ExitStack() as held:
            if folder is not None:
                held.callback(folder.close)
            initial = None
            if folder is None or not folder.model("dense").exists():
                initial = initial_network(recipe, data, warn=console.warn)  # it may not fit
            space = _space(recipe, data, initial, folder)
            place = (out or runs) if folder is None else folder.path
            shares = not fresh and initial is not None and recipe.pretrain is not None
            if space is not None:
                check_room(space, recipe, out=place, runs=runs, shares=shares)
            if folder is None:
                folder = RunFolder.begin(recipe, **where, resume=resume, origin=origin(recipe))
                held.callback(folder.close)
            elif initial is not None:
                check_unchanged(recipe, folder.origin)
            if space is not None:
                folder.hold(space.reserve)
            doing = "resuming" if folder.resumed else "running"
            doing = "finished already:" if folder.finished else doing
            console.info(f"{doing} {recipe.name} in {folder.path}")
            options = recipe.tracking
            tracker = open_tracker(options, folder=folder.path, runs=runs, warn=console.warn)
            share = None if fresh else runs
            job = Job(recipe, data, initial, folder, tracker, console, compute, max_steps, share)
            return job.finish()


def _space(
    recipe: Recipe, data: Splits, initial: nn.Module | None, folder: RunFolder | None
) -> Space | None:
    """What the run will still write; None if it has finished."""
    if folder is not None and folder.finished:
        return None
    if initial is None:
        assert folder is not None
        initial = read_model(folder.model("dense")).model
    return needed(recipe, data, initial, folder)
