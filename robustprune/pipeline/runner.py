"""Running a recipe, from its file to its results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.artifacts.reading import read_model
from robustprune.errors import InvalidError
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.counts import check_counts
from robustprune.pipeline.folder import RunFolder, of_job
from robustprune.pipeline.images import check_columns
from robustprune.pipeline.job import Job
from robustprune.pipeline.network import initial_network
from robustprune.pipeline.relay import in_turn, open_folder
from robustprune.pipeline.results import RunResult
from robustprune.pipeline.space import check_room, needed
from robustprune.pipeline.stages import check_maskable, wants_dense
from robustprune.pipeline.strategies import check_shares, restarted
from robustprune.pipeline.weights import check_unchanged, origin
from robustprune.recipe import Recipe, inconsistencies, load_recipe
from robustprune.shard import Shard
from robustprune.tracking import (
    RUNS,
    Console,
    NullTracker,
    Silent,
    Tracker,
    check_store,
    open_tracker,
)

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

    In a process that torchrun or accelerate has started beside others, all of which call this, they
    share the work; the main one writes the files.

    Args:
        recipe: a file, or a recipe already loaded.
        overrides: ``key=value`` changes, as ``--set`` takes them.
        out: the run folder; a new one in ``runs/<recipe name>/`` if absent.
        resume: go on with ``out``, or with the newest unfinished run of this recipe.
        max_steps: cut each stage after so many optimizer steps, to try a recipe out.
        runs: where run folders, shared dense networks and the default MLflow store are kept.
        fresh: train the dense network even if another run has trained the same, and share it not.
        console: where progress is shown.

    Raises:
        UsageError: the recipe, the data or the folder is at fault.
        DivergedError: a loss is NaN, infinite or exploding.
        SoundnessError: an attack broke what a certificate verified. The run is complete, and all
            its files are written.
        InterruptedRun: it was asked to stop; what can be gone on with is in the folder.
        PeerError: another of several processes failed, and says why.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif problems := inconsistencies(recipe):
        raise InvalidError(problems)
    console, runs = console or Console(), Path(runs)
    asked = None if out is None else Path(out)
    check_columns(recipe.evaluate)  # type: ignore[arg-type]
    with Compute(recipe.compute) as compute, ExitStack() as held:
        shard = compute.shard
        console = console if shard.is_main else Silent()
        shard.lead(lambda: _check(recipe, runs, shard.world))
        data = in_turn(lambda: recipe.data.load(seed=recipe.seed), shard=shard)  # type: ignore[attr-defined]
        if restarted():
            console.warn("a process had died: started anew, from what was saved")
            before = shard.lead(lambda: of_job(recipe, runs=runs, out=asked))
            asked, resume = before or asked, resume or before is not None
        where: dict[str, Any] = {"runs": runs, "out": asked, "cut": {"max_steps": max_steps}}
        folder, initial = _opened(recipe, data, shard, held, console, where, resume, fresh)
        compute.go_on_with(shard.lead(lambda: folder.threads))
        _announce(recipe, folder, console)
        tracker = _tracker(recipe, folder, runs, console, shard)
        share = None if fresh else runs
        job = Job(recipe, data, initial, folder, tracker, console, compute, max_steps, share)
        return job.finish()


def _opened(
    recipe: Recipe,
    data: Splits,
    shard: Shard,
    held: ExitStack,
    console: Console,
    where: dict[str, Any],
    resume: bool,
    fresh: bool,
) -> tuple[RunFolder, nn.Module | None]:
    """The run's folder, and the network to begin with if its dense one is not there yet.

    All that the user can be at fault for is found before the folder is made.
    """
    opened = partial(open_folder, shard=shard, held=held)
    folder = opened(lambda: RunFolder.reopen(recipe, **where)) if resume else None
    initial = None
    if folder is None or not shard.lead(folder.model("dense").exists):
        initial = in_turn(lambda: initial_network(recipe, data, warn=console.warn), shard=shard)
        check_maskable(recipe, initial)
    world = shard.world
    reserve = shard.lead(lambda: _room(recipe, data, initial, folder, where, world, fresh=fresh))
    if folder is None:
        folder = opened(
            lambda: RunFolder.begin(recipe, **where, resume=resume, origin=origin(recipe))
        )
        assert folder is not None
    elif initial is not None:
        shard.lead(partial(_check_weights, recipe, folder))
    if reserve is not None:
        shard.lead(partial(folder.hold, reserve))
    return folder, initial


def _room(
    recipe: Recipe,
    data: Splits,
    initial: nn.Module | None,
    folder: RunFolder | None,
    where: dict[str, Any],
    world: int,
    *,
    fresh: bool,
) -> int | None:
    """Make sure of work and room for the run; what of it is to be set aside. None if finished."""
    if folder is not None and folder.finished:
        return None
    shares = not fresh and initial is not None and recipe.pretrain is not None
    shares = shares and wants_dense(recipe)
    model = initial
    if model is None:
        assert folder is not None
        model = read_model(folder.model("dense")).model
    check_counts(recipe, data, model, world=world, **where["cut"])
    space = needed(recipe, data, model, folder)
    out, runs = where["out"], where["runs"]
    place = (out or runs) if folder is None else folder.path
    check_room(space, recipe, out=place, runs=runs, shares=shares)
    return space.reserve


def _check_weights(recipe: Recipe, folder: RunFolder) -> None:
    check_unchanged(recipe, folder.origin)


def _check(recipe: Recipe, runs: Path, world: int) -> None:
    check_store(recipe.tracking, runs)
    check_shares(recipe, world)


def _announce(recipe: Recipe, folder: RunFolder, console: Console) -> None:
    doing = "resuming" if folder.resumed else "running"
    doing = "finished already:" if folder.finished else doing
    console.info(f"{doing} {recipe.name} in {folder.path}")


def _tracker(
    recipe: Recipe, folder: RunFolder, runs: Path, console: Console, shard: Shard
) -> Tracker | NullTracker:
    if not shard.is_main:
        return NullTracker()
    return open_tracker(recipe.tracking, folder=folder.path, runs=runs, warn=console.warn)
