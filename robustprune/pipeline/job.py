"""A run at work: a dense network, then every pruner at every density, each one judged."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from robustprune.artifacts.dense import annotate
from robustprune.artifacts.sizes import kept_weights, left_dense
from robustprune.datasets import Splits
from robustprune.errors import InterruptedRun, PeerError, SoundnessError, first_line
from robustprune.evaluators import Evaluator
from robustprune.files import write_json
from robustprune.masking import prunable_layers
from robustprune.pipeline import results, soundness
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.curves import Curves
from robustprune.pipeline.dead import dead, describe
from robustprune.pipeline.folder import RunFolder, read_json
from robustprune.pipeline.judge import judge
from robustprune.pipeline.making import Making
from robustprune.pipeline.progress import Subject
from robustprune.pipeline.relay import read_saved
from robustprune.pipeline.results import RunResult
from robustprune.pipeline.shared import History, SharedDense, determinants
from robustprune.pipeline.stages import Network, kept_epochs, networks
from robustprune.pipeline.verdicts import Verdicts
from robustprune.recipe import Recipe
from robustprune.recipe.own import blamed
from robustprune.report import write_report
from robustprune.tracking import (
    NETWORK_FILES,
    RUN_FILES,
    Console,
    NullTracker,
    Tracker,
    describe_datasets,
    describe_network,
    describe_run,
    ended,
    final_metrics,
    run_name,
    uploads,
)

_FOUND = ("metrics", "alarms", "dead")
"""What of a network's entry its file is annotated with."""


@dataclass
class Job:
    """One run, from what was made ready for it to its results.

    Attributes:
        recipe: resolved.
        data: the recipe's images.
        initial: the dense network before any training; None if it is trained already.
        folder: the run's own, which nobody else works in.
        tracker: told of what happens.
        console: the same, for people.
        compute: device, precision and threads.
        max_steps: set if stages are cut.
        share: where dense networks are shared with other runs; None for nowhere.
        networks: entries of ``results.json``, as they come in.
    """

    recipe: Recipe
    data: Splits
    initial: nn.Module | None
    folder: RunFolder
    tracker: Tracker | NullTracker
    console: Console
    compute: Compute
    max_steps: int | None
    share: Path | None
    networks: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._at_work: str | None = None  # the network whose tracked run is open
        self._page: Path | None = None
        self.document = self.recipe.document()
        self.shard = self.compute.shard
        about = (self.recipe, self.data, self.initial, self.folder, self.tracker, self.console)
        self.making = Making(*about, self.compute, self.max_steps)
        processes = self.shard.world
        self.environment = results.environment(self.compute.device, processes=processes)
        self.datasets = results.datasets(self.document["data"]["name"], self.data)
        self.evaluations: dict[str, Any] = self.shard.lead(
            lambda: read_json(self.folder.evaluations, {})
        )

    def finish(self) -> RunResult:
        """Run everything, and tell the tracker how it ended."""
        self.shard.lead(self._write)
        params, tags = describe_run(self.results)
        found = describe_datasets(self.results)
        self.tracker.start(run_name(self.results), params=params, tags=tags, datasets=found)
        status = "FAILED"
        try:
            self._networks()
            self.shard.lead(self._complete)
            status = ended(self.result.alarms)
        except KeyboardInterrupt:
            status = "KILLED"
            raise InterruptedRun(self.folder.path.absolute()) from None
        finally:
            if self.shard.is_main:
                for path, place in uploads(self.folder.path, RUN_FILES):
                    self.tracker.artifact(None, path, place)
            self.tracker.finish(self._at_work, status)
            self.tracker.finish(None, status)
            self.tracker.close()
        if alarms := self.result.alarms:
            if not self.shard.is_main:
                raise PeerError(0)
            raise SoundnessError(f"{soundness.verdict(alarms)}\nwritten to {self.folder.path}")
        return self.result

    @property
    def result(self) -> RunResult:
        """What the run has found so far."""
        return RunResult(self.folder.path, self.results, self._page, self.tracker.where)

    @property
    def results(self) -> dict[str, Any]:
        """The content of ``results.json`` so far."""
        return results.document(
            recipe=self.document,
            networks=self.networks,
            environment=self.environment,
            datasets=self.datasets,
            max_steps=self.max_steps,
        )

    def _networks(self) -> None:
        for network in networks(self.recipe):
            if network.pruner is None:
                self._dense(network)
            else:
                self._pruned(network)

    def _complete(self) -> None:
        self._report()
        self.folder.finish()

    def _report(self) -> None:
        """Draw what was found, for who looks at it in MLflow; a run does not fail by a page."""
        page = self.folder.path / "report" / "report.html"
        if self.folder.finished and page.exists():
            self._page = page
            return
        if not (self.recipe.tracking.enabled and self.recipe.tracking.report):
            return
        try:
            self._page = write_report([self.folder.path], page, ended=True, console=self.console)
        except Exception as error:  # of a plotting library, about numbers of any kind
            reason = first_line(error)
            if own := blamed(error):
                again = shlex.join(["robustprune", "report", str(self.folder.path)])
                reason = f"{own}\nMend the file, and write it with: {again}"
            self.console.warn(f"the report was not written: {reason}")

    def _dense(self, network: Network) -> None:
        path = self.folder.model(network.name)
        self._open(network)
        if self.shard.lead(path.exists):
            model = self.compute.placed(read_saved(path, shard=self.shard).model)
        elif self.share is None or self.recipe.pretrain is None:
            model, _ = self.making.dense(network)
        else:
            model = self._shared(network, self.share)
        prunable = sum(layer.weight.numel() for layer in prunable_layers(model).values())
        facts = {"kept": prunable, "prunable": prunable, "turnover": None}
        reused = self.shard.lead(lambda: read_json(self.folder.reused, {}))
        self._judge(network.name, model, facts | reused)

    def _shared(self, network: Network, runs: Path) -> nn.Module:
        """The dense network that another run has trained, or a new one, left for others."""
        epochs = {epoch: self.folder.epoch(epoch) for epoch in kept_epochs(self.recipe)}
        shared = SharedDense(runs, self.shard.lead(self._determinants))
        waiting = partial(self.console.info, f"waiting for {shared.folder}: in training")
        with ExitStack() as held:
            self.shard.lead(lambda: held.enter_context(shared.claim(waiting)) and None)
            history = self.shard.lead(lambda: shared.history(self.console.warn, epochs))
            if history is None:
                model, trained = self.making.dense(network)
                self.shard.lead(lambda: self._share(shared, network.name, trained, epochs))
                return model
            self.shard.lead(lambda: shared.fetch(epochs))
        self.console.info(f"the dense network is reused from {shared.folder}")
        model = self.compute.placed(read_saved(shared.model, shard=self.shard).model)
        self.shard.lead(lambda: self._note_reuse(shared, network, history))
        self.making.save(network, model, masks={}, turnover=None)
        return model

    def _note_reuse(self, shared: SharedDense, network: Network, history: History) -> None:
        self.folder.write(lambda: write_json(self.folder.reused, {"reused": shared.digest}))
        for stage in network.stages:
            Curves(self.folder, self.tracker).add(network.name, stage, history)

    def _determinants(self) -> dict[str, Any]:
        facts = {"environment": self.environment, "origin": self.folder.origin}
        return determinants(self.recipe, self.data, **facts, max_steps=self.max_steps)

    def _share(
        self, shared: SharedDense, name: str, history: History, epochs: dict[int, Path]
    ) -> None:
        """Leave the dense network for other runs; this one does not fail by that."""
        try:
            shared.commit(self.folder.model(name), history, epochs)
        except OSError as error:  # of a disk that may be another one than the run folder's
            self.console.warn(f"the dense network is not shared: {error}")

    def _pruned(self, network: Network) -> None:
        name, path = network.name, self.folder.model(network.name)
        self._open(network)
        if not self.shard.lead(path.exists):
            self.making.pruned(network)
        saved = read_saved(path, shard=self.shard)
        layers = kept_weights(saved)
        facts: dict[str, Any] = {
            "kept": sum(layer.kept for layer in layers),
            "prunable": sum(layer.total for layer in layers),
            "turnover": saved.metadata["turnover"],
        }
        if dense := left_dense(saved):
            facts["left_dense"] = dense
        self._judge(name, self.compute.placed(saved.model), facts)

    def _open(self, network: Network) -> None:
        name, pruner = network.name, network.pruner
        entry: dict[str, Any] = {
            "name": name,
            "pruner": None if pruner is None else pruner.registered_name,
            "density": network.density,
            "model": f"{name}/model.safetensors",
            "metrics": {},
        }
        params, tags = describe_network(entry, self.results)
        self.tracker.network(name, params=params, tags=tags)
        self._entry, self._at_work = entry, name

    def _judge(self, name: str, model: nn.Module, facts: dict[str, Any]) -> None:
        """Let each evaluator that has not spoken yet judge the network; write what it says."""
        entry = self._entry | facts
        evaluators: list[Evaluator] = self.recipe.evaluate  # type: ignore[assignment]
        verdicts = Verdicts(self.folder, name, self.evaluations, shard=self.shard)
        subject = Subject(model, self.data.test, network=name, seed=self.recipe.seed)
        self.networks.append(entry)
        found_dead = self.shard.lead(lambda: dead(subject, evaluators, device=self.compute.device))
        if found_dead is not None:
            entry["dead"] = found_dead
            self.console.warn(describe(name, found_dead))
            params, tags = describe_network(entry, self.results)
            self.tracker.network(name, params=params, tags=tags)
        for evaluator in evaluators:
            if evaluator not in verdicts:
                verdict = judge(
                    evaluator,
                    subject,
                    device=self.compute.device,
                    console=self.console,
                    shard=self.shard,
                    progress=self.folder.judged(name, evaluator.metric),
                    write=self.folder.write,
                )
                verdicts.add(evaluator, verdict)
            entry["metrics"] |= verdicts.metrics(evaluator)
            self.shard.lead(partial(self._note, f"evaluation '{evaluator.metric}' of {name}"))
        if found := soundness.alarms(evaluators, verdicts.images):
            entry["alarms"] = found
            self.console.error(soundness.describe(name, found))
        self.shard.lead(lambda: self._close(name, entry))

    def _note(self, what: str) -> None:
        self._write()
        self.folder.stop_if_full(what)

    def _close(self, name: str, entry: dict[str, Any]) -> None:
        """Note and track all that is known of a network."""
        self._write()
        found = {key: entry[key] for key in _FOUND if key in entry}
        self.folder.write(lambda: annotate(self.folder.model(name), **found))
        self.folder.stop_if_full(f"network {name}")
        self.tracker.model(name, self.folder.model(name))
        self.tracker.metrics(name, final_metrics(entry))
        for path, place in uploads(self.folder.network(name), NETWORK_FILES):
            self.tracker.artifact(name, path, place)
        self.tracker.finish(name, ended(entry.get("alarms")))
        self._at_work = None

    def _write(self) -> None:
        self.folder.write(lambda: write_json(self.folder.results, self.results))
