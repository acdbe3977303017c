"""The skeleton of a recipe. Parts are looked up in the registries by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from robustprune.models.options import ModelOptions
from robustprune.parts import Options, Part, PartOf
from robustprune.recipe.paper import PaperOptions
from robustprune.tracking.options import TrackingOptions
from robustprune.types import PhaseName


class PhaseOptions(Options):
    """How one phase trains."""

    epochs: int = Field(ge=1)
    """Passes over the labelled training images."""
    batch_size: int = Field(128, ge=1)
    """Labelled images an optimizer step, whatever the number of processes."""
    accumulate: int = Field(1, ge=1)
    """Parts each batch is cut into, to save memory."""
    select: Literal["last", "best"] = "last"
    """Hand on the last weights, or those with the lowest loss on the validation split."""
    optimizer: Annotated[Part, PartOf("optimizers", {"name": "sgd"})]
    """Made anew for the phase."""
    schedule: Annotated[Part, PartOf("schedules", {"name": "cosine"})]
    """Factor on the learning rate."""
    objective: Annotated[Part, PartOf("objectives")] | None = None
    """What this phase minimises, where that is not the recipe's own objective."""


class PruneOptions(PhaseOptions):
    """How masks are found: every method at every density, from the same dense network."""

    methods: list[Annotated[Part, PartOf("pruners")]] = Field(min_length=1)
    """Pruners; those that learn nothing skip the training."""
    norm_lr: float | None = Field(None, gt=0)
    """Learning rate of the norm layers, if they train; absent, the scores' own, as in HYDRA's
    reference. Scores may need a rate at which norm layers diverge."""
    densities: list[Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    """Fractions of the prunable weights to keep."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the training images that scores are learned from: the first of a random order that
    follows from the seed, the same for every method. An epoch is one pass over them."""


class ComputeOptions(Options):
    """What it runs on. Bits are promised for the same machine, versions and thread count."""

    device: Literal["auto", "cpu"] = "auto"
    """The accelerator that is there, or the CPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward passes in training; evaluation is always fp32."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each process; if absent, as many as there are idle CPUs for it, or as
    ``OMP_NUM_THREADS`` says. Recorded in the results, and kept by a run that goes on."""
    batch_norm: Literal["synchronised", "local"] = "synchronised"
    """Where several processes share a batch, whether BatchNorm takes the statistics of all of it,
    as one process would, or each process those of its own images."""
    channels_last: bool = False
    """Keep images and weights channels-last, which suits large convolutions."""


class Recipe(Options):
    """One row group of a paper's table: a dense network, then every pruner at every density."""

    name: str = Field(pattern=r"^[\w][\w.-]*$")
    """Names the run's folder: letters, digits, ``_``, ``-`` and ``.``, no ``-`` or ``.`` first."""
    seed: int = Field(0, ge=0)
    """All randomness derives from it."""
    data: Annotated[Part, PartOf("datasets")]
    """The images."""
    model: ModelOptions
    """The network."""
    objective: Annotated[Part, PartOf("objectives")]
    """Minimised in every phase that names none of its own: over weights, over scores, over the
    weights that are left."""
    pretrain: PhaseOptions | None = None
    """Trains the dense network; may be left out if ``model.weights`` names trained ones."""
    prune: PruneOptions | None = None
    """Learns what to keep; without it the run ends with the dense network."""
    finetune: PhaseOptions | None = None
    """Trains what is kept; without it pruned networks are judged as they are."""
    evaluate: list[Annotated[Part, PartOf("evaluators")]] = []
    """What each network is judged by."""
    tracking: TrackingOptions = TrackingOptions()
    """Where MLflow keeps the run."""
    compute: ComputeOptions = ComputeOptions()
    """Device, precision, threads."""
    imports: list[str] = []
    """Files (relative to the recipe) or modules that register parts of your own; they are run."""
    paper: PaperOptions | None = None
    """The setting of a paper that this recipe repeats; nothing is computed from it."""

    _files: dict[str, Path] = PrivateAttr(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """The entries of ``imports`` that are files, and where they were found."""
        return self._files

    def phase(self, name: PhaseName) -> PhaseOptions | None:
        """The options of a phase, if the recipe has it."""
        return {"pretrain": self.pretrain, "prune": self.prune, "finetune": self.finetune}[name]

    def objective_of(self, name: PhaseName) -> Part:
        """What a phase minimises: its own objective, or the recipe's."""
        phase = self.phase(name)
        return self.objective if phase is None or phase.objective is None else phase.objective

    def document(self) -> dict[str, Any]:
        """The resolved recipe as plain values: every option, defaults included."""
        return self.model_dump(mode="json", serialize_as_any=True)
