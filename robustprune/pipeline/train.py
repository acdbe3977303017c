"""Training the networks of a run, and writing them: the same in every process of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.datasets import Splits
from robustprune.datasets.source import balanced
from robustprune.masking import MaskedModel, attach, structures
from robustprune.models import create_model
from robustprune.objectives import Objective
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.initial_network import initial_network, shape
from robustprune.pipeline.networks import EPOCH, MASK, Network, kept_epochs
from robustprune.pipeline.run_folder import RunFolder
from robustprune.pruners import Context, Method, Stage
from robustprune.recipe import Recipe
from robustprune.seeding import derive, fork
from robustprune.tracking import Console, Tracker, stage_metrics
from robustprune.training.loop import History, Trainer
from robustprune.types import Images
from robustprune.version import __version__

FORMAT = 1
"""The format of model files' metadata."""


@dataclass
class NetworkTrainer:
    """Trains the networks of one run, and writes each with where it comes from.

    Attributes:
        recipe: resolved.
        data: the recipe's images.
        initial: the dense network before any training, on the CPU; made when needed if None.
        folder: the run's.
        tracker: told of each epoch.
        console: the same, for people.
        compute: device, precision and threads.
        max_steps: set if stages are cut.
        watch: called like `Trainer.on_epoch` once an epoch is written; what it raises ends the run.
    """

    recipe: Recipe
    data: Splits
    initial: nn.Module | None
    folder: RunFolder
    tracker: Tracker
    console: Console
    compute: Compute
    max_steps: int | None
    watch: Callable[[str, Stage, History], None]

    def __post_init__(self) -> None:
        self._curves: dict[str, dict[str, History]] = {}

    @property
    def cut(self) -> dict[str, Any]:
        """How the run is shortened, for what it writes; empty if it is not."""
        return {} if self.max_steps is None else {"max_steps": self.max_steps}

    @cached_property
    def untrained(self) -> nn.Module:
        """The dense network before any training, on the CPU."""
        if self.initial is not None:
            return self.initial
        return self.compute.shard.in_turn(lambda: initial_network(self.recipe, self.data))

    def train_dense(self, network: Network) -> History:
        """Train and write the dense network; returns its curves."""
        model = self.compute.placed(copy.deepcopy(self.untrained))
        masked = MaskedModel(model, [], structure=structures.create("weight"))
        history = self._train(network, masked, Method())
        self.write(network, model)
        return history

    def train_pruned(self, network: Network) -> None:
        """Train and write a pruned network."""
        pruner = network.pruner
        assert pruner is not None
        checkpoints = {need: self._checkpoint(need, network) for need in pruner.needs()}
        model = self._fresh(network)
        model.load_state_dict(checkpoints[pruner.needs()[0]])
        model = self.compute.placed(model)
        masked = attach(model, exclude=pruner.exclude, structure=pruner.structure)
        seed = derive(self.recipe.seed, network.name, "method")
        context = Context(
            density=network.density,
            objective=self.recipe.objective.fresh(),  # type: ignore[attr-defined]
            generator=torch.Generator().manual_seed(seed),
            batches=lambda size, per_class=None: self._batches(network, size, per_class),
            checkpoints=checkpoints,
        )
        minimised = (self.recipe.objective_of(stage.options) for stage in network.stages)
        if any(objective is self.recipe.objective for objective in minimised):
            self._bind(context.objective, network)  # where none does, what it needs may be missing
        self._train(network, masked, pruner.method(context))
        turnover = masked.turnover
        self.write(network, model, masks=masked.bake(), turnover=turnover)

    def write(
        self,
        network: Network,
        model: nn.Module,
        *,
        masks: Mapping[str, Tensor] | None = None,
        turnover: float | None = None,
    ) -> None:
        """Write a baked network; a pruned one with its masks and their turnover.

        Its metadata holds no time, no run id and no absolute path.
        """
        recipe, data, document = self.recipe, self.data, self.recipe.document()
        source = {key: value for key, value in document["data"].items() if key != "extra"}
        if source.get("root") is not None and Path(source["root"]).is_absolute():
            del source["root"]
        # attacks and certificates are chosen by what the network minimised last
        trained = [stage.options for stage in network.stages if stage.options is not None]
        objective = recipe.objective_of(trained[-1] if trained else None)
        facts = {
            "format": FORMAT,
            **self.folder.origin,
            "network": network.name,
            "model": recipe.model.resolved(**shape(data)),
            "pruner": None if network.pruner is None else network.pruner.model_dump(mode="json"),
            "density": network.density,
            "turnover": turnover,
            "recipe": recipe.name,
            "seed": recipe.seed,
            "data": source,
            "classes": list(data.class_names or map(str, range(data.num_classes))),
            "objective": objective.model_dump(mode="json"),
            "evaluate": document["evaluate"],
            "channels_last": recipe.compute.channels_last,
            "versions": {"robustprune": __version__, "torch": metadata.version("torch")},
            **self.cut,
        }
        self.folder.write_model(network.name, model, masks or {}, facts)

    def add_epochs(self, network: str, stage: Stage, history: History) -> None:
        """Track the epochs that are new in a stage's ``history``, and write the network's curves.

        The tracker is told of each epoch once a process; it knows which ones an earlier one told.
        """
        curves = self._curves.setdefault(network, {})
        known = curves.get(stage.name, [])
        for number, metrics in enumerate(history[len(known) :], start=len(known) + 1):
            self.tracker.metrics(network, stage_metrics(stage.name, metrics), step=number)
        curves[stage.name] = list(history)
        entries = [
            {"stage": name, "epoch": number, "metrics": metrics}
            for name, epochs in curves.items()
            for number, metrics in enumerate(epochs, start=1)
        ]
        self.folder.write_json(self.folder.history(network), entries)
        if self.compute.shard.is_main:
            self.watch(network, stage, history)

    def _train(self, network: Network, masked: MaskedModel, method: Method) -> History:
        """Train one stage after the other."""
        trainer = Trainer(
            accelerator=self.compute.accelerator,
            memory_format=self.compute.memory_format,
            objective=self.recipe.objective,  # type: ignore[arg-type]
            data=self.data,
            seed=self.recipe.seed,
            console=self.console,
            on_epoch=self.add_epochs,
            max_steps=self.max_steps,
            shard=self.compute.shard,
            scales=self.recipe.compute.precision == "fp16",
            sparse=self._choices if self.recipe.compute.sparse == "on" else None,
        )
        epochs = kept_epochs(self.recipe) if network.pruner is None else []
        keep = {epoch: self.folder.epoch(epoch) for epoch in epochs}
        history: History = []
        for stage in network.stages:
            self._bind(self.recipe.objective_of(stage.options), network)
            path = self.folder.state(network.name, stage.name)
            history += trainer.train(network.name, stage, masked, method, path, keep=keep)
        return history

    def _bind(self, objective: Objective, network: Network) -> None:
        """Hand over the networks that an objective needs."""
        networks = {}
        for need in objective.needs:
            model = self._fresh(network)
            model.load_state_dict(self._checkpoint(need, network))
            networks[need] = self.compute.placed(model).eval().requires_grad_(False)
        objective.bind(networks)

    def _choices(self, network: str, stage: Stage) -> Path:
        return self.folder.choices(network, stage.name)

    def _batches(self, network: Network, size: int, per_class: int | None) -> Iterator[Images]:
        """Training images, one pass, the same on every process; see `Context.batches`."""
        source, device = self.data.train, self.compute.device
        assert source is not None
        seed = derive(self.recipe.seed, network.name, "batches")
        batches = source.batches(size, generator=torch.Generator().manual_seed(seed))
        if per_class is not None:
            batches = balanced(batches, per_class, classes=self.data.num_classes)
        for batch in batches:
            images = batch.images.to(device, memory_format=self.compute.memory_format)
            yield Images(images, batch.labels.to(device))

    def _fresh(self, network: Network) -> nn.Module:
        """The architecture with an initialisation of its own, whatever weights the recipe names."""
        with fork(self.recipe.seed, network.name, "init"):
            return create_model(**self.recipe.model.resolved(**shape(self.data)))

    def _checkpoint(self, need: str, network: Network) -> Mapping[str, Tensor]:
        """Tensors that a pruner needs; see `Pruner.needs`."""
        if need == "init":
            return self.untrained.state_dict()
        if need == "fresh":
            return self._fresh(network).state_dict()
        if need.startswith(EPOCH):
            return self.folder.read_epoch(int(need.removeprefix(EPOCH)))
        if need.startswith(MASK):
            other = f"{need.removeprefix(MASK)}-{network.density:g}"
            return self.folder.read_model(other).masks
        return self.folder.read_model("dense").model.state_dict()
