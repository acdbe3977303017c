"""Running a recipe: a dense network, then every pruner at every density, each one evaluated.

All processes of a job run this file alike. What only one of them may do stands behind the run
folder, the cache of dense networks, the tracker and the console.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from robustprune import tracking
from robustprune.artifacts.sizes import kept_weights, left_dense
from robustprune.components import check_installed
from robustprune.datasets import Splits
from robustprune.errors import (
    FullDiskError,
    InterruptedRun,
    InvalidError,
    PeerError,
    SoundnessError,
    first_line,
)
from robustprune.files import FULL
from robustprune.measures import measure
from robustprune.pipeline import results
from robustprune.pipeline.checks import check_counts, check_maskable, check_room
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.dense_cache import DenseCache, determinants
from robustprune.pipeline.evaluate import Evaluation, evaluate
from robustprune.pipeline.evaluation_state import Subject
from robustprune.pipeline.initial_network import initial_network
from robustprune.pipeline.launcher_env import restarted
from robustprune.pipeline.networks import Network, kept_epochs, networks
from robustprune.pipeline.plan import works
from robustprune.pipeline.results import RunResult
from robustprune.pipeline.run_folder import RunFolder, find_run, new_folder, read_together
from robustprune.pipeline.sanity import alarm_text
from robustprune.pipeline.sparse import shortened
from robustprune.pipeline.train import NetworkTrainer
from robustprune.pruners import Stage
from robustprune.recipe import Recipe, inconsistencies, load_recipe
from robustprune.recipe.imports import blamed
from robustprune.report import write_report
from robustprune.tracking import RUNS, Console, Silent, Tracker, TrackingOptions
from robustprune.tracking.progress import Whole
from robustprune.training.loop import History
from robustprune.version import __version__


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
    watch: Callable[[str, Stage, History], None] = lambda network, stage, history: None,
) -> RunResult:
    """Run a recipe to its end.

    In a process that torchrun or accelerate has started beside others, all of which call this, they
    share the work; the main one writes the files.

    Args:
        recipe: a file, the name of one that comes with the package, or a recipe already loaded.
        overrides: ``key=value`` changes, as ``--set`` takes them.
        out: the run folder; a new one in ``runs/<recipe name>/`` if absent.
        resume: go on with ``out``, or with the newest unfinished run of this recipe.
        max_steps: cut each stage after so many optimizer steps, to try a recipe out.
        runs: where run folders, shared dense networks and the default MLflow store are kept.
        fresh: train the dense network even if another run has trained the same, and share it not.
        console: where progress is shown.
        watch: called in the main process with (network, stage, history) after each epoch, and of a
            dense network that is reused, or a stage that is gone on with, once; what it raises ends
            the run, which can be resumed.

    Raises:
        UsageError: the recipe, the data or the folder is at fault.
        DivergedError: a loss is NaN, infinite or exploding.
        FullDiskError: the disk became full. What was finished is in the folder.
        SoundnessError: an attack broke what a certificate verified. The run is complete, and all
            its files are written.
        InterruptedRun: it was asked to stop; what can be gone on with is in the folder.
        PeerError: another of several processes failed, and says why.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif problems := inconsistencies(recipe):
        raise InvalidError(problems)
    check_installed(recipe)
    runs, place = Path(runs), None if out is None else Path(out)
    with Compute(recipe.compute) as compute, ExitStack() as held:
        shard = compute.shard
        console = (console or Console()) if shard.is_main else Silent()
        shard.lead(partial(tracking.check_store, recipe.tracking, runs))
        data: Splits = shard.in_turn(lambda: recipe.data.load(seed=recipe.seed))  # type: ignore[attr-defined]

        if restarted():
            console.warn("a process had died: started anew, from what was saved")
        cut = {"max_steps": max_steps}
        find = partial(find_run, recipe, runs=runs, out=place, cut=cut, resume=resume)
        folder = initial = None
        if (path := shard.lead(find)) is not None:
            folder = RunFolder(path, shard=shard, resumed=True)
            held.callback(folder.close)
            folder.reopen(recipe)

        if folder is not None and folder.has_model("dense"):
            model = folder.read_model("dense").model
        else:
            model = initial = shard.in_turn(
                lambda: initial_network(recipe, data, warn=console.warn)
            )
            if folder is not None:
                folder.check_origin(recipe)
        if folder is None or not folder.finished:

            def check() -> None:
                check_maskable(recipe, model)
                check_counts(recipe, data, model, world=shard.world, max_steps=max_steps)
                check_room(recipe, model, folder.path if folder else place or runs)

            shard.lead(check)
        if folder is None:
            path = shard.lead(lambda: place or new_folder(runs / recipe.name))
            folder = RunFolder(path, shard=shard)
            held.callback(folder.close)
            folder.begin(recipe, cut=cut, resume=resume)

        compute.keep_threads(folder.threads)
        doing = "resuming" if folder.resumed else "running"
        doing = "finished already:" if folder.finished else doing
        console.info(f"{doing} {recipe.name} in {folder.path}")
        tracked = recipe.tracking if shard.is_main else TrackingOptions(enabled=False)
        tracker = Tracker(tracked, folder=folder.path, runs=runs, warn=console.warn)
        about = (recipe, data, initial, folder, tracker, console, compute, max_steps, watch)
        return _Run(*about, runs=None if fresh else runs).finish()


@dataclass
class _Run(NetworkTrainer):
    """One run, from what was made ready for it to its results.

    Attributes:
        runs: where dense networks are shared with other runs; None for nowhere.
    """

    runs: Path | None

    def finish(self) -> RunResult:
        """Make and evaluate every network, and tell the tracker how it ended."""
        folder, tracker, shard = self.folder, self.tracker, self.compute.shard
        document = self.recipe.document()
        self.results: dict[str, Any] = {
            "version": results.VERSION,
            "robustprune": __version__,
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            **self.cut,  # so that nobody takes the run for a whole one
            "environment": results.environment(self.compute.device, processes=shard.world),
            "datasets": results.datasets(document["data"]["name"], self.data),
            "networks": [],
            "params": document,
        }
        self._write_results()
        tracker.start(self.results)
        parts = works(self.recipe, self.data, world=shard.world, max_steps=self.max_steps)
        self.console.whole = Whole(parts) if parts else None
        status = "FAILED"
        try:
            for network in networks(self.recipe):
                self._make(network)
                self._evaluate(network)
            result = RunResult(folder.path, self.results, shard.lead(self._report))
            folder.finish()
            status = tracking.ended(result.alarms)
        except KeyboardInterrupt:
            status = "KILLED"
            raise InterruptedRun(folder.path.absolute()) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise FullDiskError(f"{FULL[error.errno]} ({error.filename})", folder.path) from error
        finally:
            self.console.whole = None
            tracker.finish(status)
            tracker.close()
        if alarms := result.alarms:
            if not shard.is_main:
                raise PeerError(0)
            raise SoundnessError(f"{alarm_text(alarms)}\nwritten to {folder.path}")
        return replace(result, tracked=tracker.where)

    def _make(self, network: Network) -> None:
        """Train a network, or find that it is there already."""
        self.entry: dict[str, Any] = {
            "name": network.name,
            "pruner": None if network.pruner is None else network.pruner.registered_name,
            "density": network.density,
            "model": f"{network.name}/model.safetensors",
            "metrics": {},
        }
        self.tracker.network(self.entry, self.results)
        if self.folder.has_model(network.name):
            return
        if network.pruner is not None:
            self.train_pruned(network)
        elif self.runs is None or self.recipe.pretrain is None:
            self.train_dense(network)
        else:
            self._share_dense(network, self.runs)

    def _share_dense(self, network: Network, runs: Path) -> None:
        """Take over the dense network that another run has trained, or train it for others, too."""
        epochs = {epoch: self.folder.epoch(epoch) for epoch in kept_epochs(self.recipe)}
        facts = partial(determinants, self.recipe, self.data, max_steps=self.max_steps)
        origin, environment = self.folder.origin, self.results["environment"]
        shard = self.compute.shard
        key = shard.lead(partial(facts, environment=environment, origin=origin))
        cache = DenseCache(runs, key, warn=self.console.warn, shard=shard)
        waiting = partial(self.console.info, f"waiting for {cache.folder}: in training")
        with cache.claim(waiting):
            history = cache.fetch(epochs)
            if history is None:
                trained = self.train_dense(network)
                cache.add(self.folder.model(network.name), trained, epochs)
                return
        self.console.info(f"the dense network is reused from {cache.folder}")
        model = read_together(cache.model, shard).model
        self.folder.write_json(self.folder.reused, {"reused": cache.digest})
        for stage in network.stages:
            self.add_epochs(network.name, stage, history)
        self.write(network, model)

    def _evaluate(self, network: Network) -> None:
        """Evaluate a network by all that has not done so yet, and write what comes out."""
        name, entry, shard = network.name, self.entry, self.compute.shard
        saved = self.folder.read_model(name)
        layers = kept_weights(saved)
        entry["kept"] = sum(layer.kept for layer in layers)
        entry["prunable"] = sum(layer.total for layer in layers)
        entry["turnover"] = saved.metadata["turnover"]
        if names := left_dense(saved):
            entry["left_dense"] = names
        if network.pruner is None:
            entry |= self.folder.read_json(self.folder.reused, {})
        self.compute.placed(saved.model)
        measures: list[Any] = self.recipe.measures
        if measures:
            shape = (self.data.channels, self.data.image_size, self.data.image_size)
            entry["measures"] = shard.lead(partial(measure, saved, measures, shape=shape))
        files = {stage.name: self.folder.choices(name, stage.name) for stage in network.stages}
        choices = {stage: self.folder.read_json(path, None) for stage, path in files.items()}
        if trained := {stage: one for stage, one in choices.items() if one is not None}:
            entry["sparse_training"] = {stage: shortened(one) for stage, one in trained.items()}
        self.results["networks"].append(entry)

        def after(found: Evaluation) -> None:
            entry.update(found.entry)
            self._write_results()

        found = evaluate(
            Subject(saved.model, self.data.test, network=name, seed=self.recipe.seed),
            self.recipe.evaluate,  # type: ignore[arg-type]
            device=self.compute.device,
            console=self.console,
            shard=shard,
            kept=partial(self.folder.batches, name),
            table=self.folder.images(name),
            sparse=self.recipe.compute.sparse,
            choices=self.folder.choices(name),
            after=after,
        )
        after(found)
        self.tracker.network(entry, self.results)

        # choices rest on times, and files of the same recipe are the same
        facts = {key: value for key, value in found.entry.items() if key != "sparse"}
        self.folder.annotate(name, facts)
        self.tracker.complete(entry)

    def _report(self) -> Path | None:
        """Draw a page of the results; a run does not fail by it."""
        page = self.folder.path / "report" / "report.html"
        if self.folder.finished and page.exists():
            return page
        if not (self.recipe.tracking.enabled and self.recipe.tracking.report):
            return None
        try:
            return write_report([self.folder.path], page, ended=True, console=self.console)
        except Exception as error:  # of a plotting library, about numbers of any kind
            reason = blamed(error) or first_line(error)
            again = shlex.join(["robustprune", "report", str(self.folder.path)])
            self.console.warn(
                f"the report was not written: {reason}\nMended, write it with: {again}"
            )
            return None

    def _write_results(self) -> None:
        self.folder.write_json(self.folder.results, self.results)
