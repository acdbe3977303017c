"""Making the networks of a run, and writing them: what all processes of it do together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustprune.artifacts.dense import save_model
from robustprune.datasets.source import balanced
from robustprune.errors import UsageError
from robustprune.masking import MaskedModel, attach, structures
from robustprune.pipeline.curves import Curves
from robustprune.pipeline.network import initial_network, shape
from robustprune.pipeline.provenance import provenance
from robustprune.pipeline.relay import in_turn, read_saved
from robustprune.pipeline.stages import EPOCH, MASK, Network, kept_epochs
from robustprune.pruners import Context, Method
from robustprune.seeding import derive, fork
from robustprune.training.loop import History, Trainer
from robustprune.training.state import StageState
from robustprune.types import Images

if TYPE_CHECKING:
    from robustprune.datasets import Splits
    from robustprune.pipeline.compute import Compute
    from robustprune.pipeline.folder import RunFolder
    from robustprune.recipe import Recipe
    from robustprune.tracking import Console, NullTracker, Tracker


@dataclass
class Making:
    """Makes the networks of one run; the attributes are those of the run's job."""

    recipe: Recipe
    data: Splits
    initial: nn.Module | None
    folder: RunFolder
    tracker: Tracker | NullTracker
    console: Console
    compute: Compute
    max_steps: int | None

    def dense(self, network: Network) -> tuple[nn.Module, History]:
        """The dense network, trained and written, and its curves."""
        model = self.compute.placed(copy.deepcopy(self.untrained))
        masked = MaskedModel(model, [], structure=structures.create("weight"))
        history = self._train(network, masked, Method())
        self.save(network, model, masks={}, turnover=None)
        return model, history

    def pruned(self, network: Network) -> None:
        """One pruned network, trained and written."""
        pruner = network.pruner
        assert pruner is not None
        checkpoints = {need: self._checkpoint(need, network) for need in pruner.needs()}
        model = self._fresh(network)
        model.load_state_dict(checkpoints[pruner.needs()[0]])
        masked = attach(
            self.compute.placed(model),
            exclude=pruner.exclude,
            structure=pruner.structure,
        )
        method = pruner.method(self._context(network, checkpoints))
        self._train(network, masked, method)
        turnover = masked.turnover
        self.save(network, model, masks=masked.bake(), turnover=turnover)

    @cached_property
    def untrained(self) -> nn.Module:
        """The dense network before any training, on the CPU."""
        if self.initial is not None:
            return self.initial
        return in_turn(lambda: initial_network(self.recipe, self.data), shard=self.compute.shard)

    def save(
        self,
        network: Network,
        model: nn.Module,
        *,
        masks: Mapping[str, Tensor],
        turnover: float | None,
    ) -> None:
        """Let the main process write a network, with where it comes from.

        Args:
            network: which one.
            model: baked.
            masks: boolean, by parameter name; empty for a dense network.
            turnover: share of the kept weights that the first mask did not keep.
        """

        def write() -> None:
            metadata = provenance(
                self.recipe,
                network=network,
                model=self.recipe.model.resolved(**shape(self.data)),
                classes=self.data.class_names or list(map(str, range(self.data.num_classes))),
                turnover=turnover,
                max_steps=self.max_steps,
                origin=self.folder.origin,
            )
            file = self.folder.model(network.name)
            self.folder.write(lambda: save_model(file, model, masks=masks, metadata=metadata))
            self.folder.stop_if_full(f"network {network.name}")

        self.compute.shard.lead(write)

    def _train(self, network: Network, masked: MaskedModel, method: Method) -> History:
        """Train one stage after the other; curves go to the tracker and to ``history.json``."""
        curves = Curves(self.folder, self.tracker)
        trainer = Trainer(
            accelerator=self.compute.accelerator,
            memory_format=self.compute.memory_format,
            objective=self.recipe.objective,  # type: ignore[arg-type]
            data=self.data,
            seed=self.recipe.seed,
            console=self.console,
            on_epoch=curves.add,
            write=self.folder.write,
            max_steps=self.max_steps,
            shard=self.compute.shard,
            scales=self.recipe.compute.precision == "fp16",
        )
        keep = {}
        if network.pruner is None:
            keep = {epoch: self.folder.epoch(epoch) for epoch in kept_epochs(self.recipe)}
        history: History = []
        for stage in network.stages:
            path = self.folder.state(network.name, stage.name)
            history += trainer.train(network.name, stage, masked, method, path, keep=keep)
        return history

    def _context(
        self, network: Network, checkpoints: Mapping[str, Mapping[str, Tensor]]
    ) -> Context:
        seed = derive(self.recipe.seed, network.name, "method")
        return Context(
            density=network.density,
            objective=self.recipe.objective.fresh(),  # type: ignore[attr-defined]
            generator=torch.Generator().manual_seed(seed),
            batches=lambda size, per_class=None: self._batches(network, size, per_class),
            checkpoints=checkpoints,
        )

    def _batches(self, network: Network, size: int, per_class: int | None) -> Iterator[Images]:
        """Training images, one pass, the same on every process; see `Context.batches`."""
        source, device = self.data.train, self.compute.device
        assert source is not None
        seed = derive(self.recipe.seed, network.name, "batches")
        generator = torch.Generator().manual_seed(seed)
        batches = source.batches(size, generator=generator)
        if per_class is not None:
            batches = balanced(batches, per_class, classes=self.data.num_classes)
        for batch in batches:
            images = batch.images.to(device, memory_format=self.compute.memory_format)
            yield Images(images, batch.labels.to(device))

    def _fresh(self, network: Network) -> nn.Module:
        """The architecture with an initialisation of its own, whatever weights the recipe names."""
        with fork(self.recipe.seed, network.name, "init"):
            return self.recipe.model.build(**shape(self.data))

    def _checkpoint(self, need: str, network: Network) -> Mapping[str, Tensor]:
        """Tensors that a pruner needs; see `Pruner.needs`."""
        shard, folder = self.compute.shard, self.folder
        if need == "init":
            return self.untrained.state_dict()
        if need == "fresh":
            return self._fresh(network).state_dict()
        if need.startswith(EPOCH):
            file = folder.epoch(int(need.removeprefix(EPOCH)))
            return shard.lead(lambda: _weights(file))
        if need.startswith(MASK):
            file = folder.model(f"{need.removeprefix(MASK)}-{network.density:g}")
            return read_saved(file, shard=shard).masks
        return read_saved(folder.model("dense"), shard=shard).model.state_dict()


def _weights(file: Path) -> dict[str, Tensor]:
    state = StageState.load(file)
    if state is None:
        raise UsageError(f"{file} is gone, which holds weights of pretraining. Run anew.")
    return state.model
