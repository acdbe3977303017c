"""Training the networks of a run, and writing them: what all processes of it do together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustprune.artifacts.dense import save_model
from robustprune.pipeline.curves import Curves
from robustprune.pipeline.network import shape
from robustprune.pipeline.phases import phase_data
from robustprune.pipeline.provenance import provenance
from robustprune.training.loop import Trainer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from robustprune.datasets import Splits
    from robustprune.pipeline.compute import Compute
    from robustprune.pipeline.folder import RunFolder
    from robustprune.pipeline.shared import History
    from robustprune.pruners import Pruner
    from robustprune.recipe import Recipe
    from robustprune.tracking import Console, NullTracker, Tracker
    from robustprune.training.phase import Phase


@dataclass(frozen=True)
class Making:
    """Makes the networks of one run; the attributes are those of the run's job."""

    recipe: Recipe
    data: Splits
    folder: RunFolder
    tracker: Tracker | NullTracker
    console: Console
    compute: Compute
    max_steps: int | None

    def train(self, model: nn.Module, phases: Sequence[Phase]) -> list[History]:
        """Train one phase after the other; curves go to the tracker and to ``history.json``."""
        curves = Curves(self.folder, self.tracker)
        return [
            self._trainer(phase, curves).run(
                phase, model, self.folder.state(phase.network, phase.name)
            )
            for phase in phases
        ]

    def save(
        self,
        name: str,
        model: nn.Module,
        *,
        masks: Mapping[str, Tensor],
        pruner: Pruner | None,
        density: float,
        turnover: float | None,
    ) -> None:
        """Let the main process write a network, with where it comes from.

        Args:
            name: the network's.
            model: baked.
            masks: boolean, by parameter name; empty for a dense network.
            pruner: None for the dense network.
            density: as asked for.
            turnover: share of the kept weights that the initial scores did not keep.
        """

        def write() -> None:
            metadata = provenance(
                self.recipe,
                network=name,
                model=self.recipe.model.resolved(**shape(self.data)),
                classes=self.data.class_names or list(map(str, range(self.data.num_classes))),
                pruner=pruner,
                density=density,
                turnover=turnover,
                max_steps=self.max_steps,
                origin=self.folder.origin,
            )
            file = self.folder.model(name)
            self.folder.write(lambda: save_model(file, model, masks=masks, metadata=metadata))
            self.folder.stop_if_full(f"network {name}")

        self.compute.shard.lead(write)

    def _trainer(self, phase: Phase, curves: Curves) -> Trainer:
        return Trainer(
            accelerator=self.compute.accelerator,
            memory_format=self.compute.memory_format,
            objective=self.recipe.objective_of(phase.name),  # type: ignore[arg-type]
            data=phase_data(self.recipe, self.data, phase.name),
            seed=self.recipe.seed,
            console=self.console,
            on_epoch=curves.add,
            write=self.folder.write,
            max_steps=self.max_steps,
            shard=self.compute.shard,
            synchronise=self.recipe.compute.batch_norm == "synchronised",
        )
