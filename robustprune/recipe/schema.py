"""The skeleton of a recipe. Parts are looked up in the registries by name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, create_model

from robustprune.components import Options, Part, PartOf
from robustprune.errors import UsageError
from robustprune.models.options import ModelOptions
from robustprune.tracking.options import TrackingOptions

_Metric = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
_Network = Annotated[str, Field(pattern=r"^(dense|\w[\w.-]*-(1|0\.\d*[1-9]|[1-9]e-\d\d))$")]
_Accuracy = Annotated[float, Field(ge=0, le=1)]


def _switched(value: Any) -> Any:
    """Take what YAML makes of ``on`` and ``off`` for those words."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


_Use = Literal["auto", "on", "off"]
_Switch = Annotated[_Use, BeforeValidator(_switched, json_schema_input_type=_Use | bool)]


class StageOptions(Options):
    """Options of the training of one stage."""

    epochs: int = Field(ge=1)
    """Passes over the labelled training images."""
    batch_size: int = Field(128, ge=1)
    """Labelled images per optimizer step, whatever the number of processes."""
    accumulate: int = Field(1, ge=1)
    """Parts each batch is cut into, to save memory."""
    select: Literal["last", "best"] = "last"
    """Hand on the last weights, or those with the lowest loss on the validation split."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the training images that the stage learns from: the first of a random order that
    follows from the seed, the same for every network. An epoch is one pass over them."""
    optimizer: Annotated[Part, PartOf("optimizers", {"name": "sgd"})]
    """Made anew for the stage."""
    schedule: Annotated[Part, PartOf("schedules", {"name": "cosine"})]
    """Factor on the learning rate."""
    objective: Annotated[Part, PartOf("objectives")] | None = None
    """Minimised in this stage, where that is not the recipe's own objective."""


_CHANGES: dict[str, Any] = {
    name: (option.rebuild_annotation() | None, Field(None, description=option.description))
    for name, option in StageOptions.model_fields.items()
}


class StageChanges(create_model("_Changes", __base__=Options, **_CHANGES)):  # type: ignore[misc]
    """Changes that a pruner's own stage makes to the recipe's section that it goes by."""

    def over(self, options: StageOptions) -> StageOptions:
        """The options, but for what is set here."""
        changes = {key: value for key, value in self if value is not None}
        return options.model_copy(update=changes)


class PruneOptions(StageOptions):
    """The search for masks: every method at every density, from the same dense network.

    Without ``epochs`` there is no stage of that name, which `hydra` and others need.
    """

    epochs: int | None = Field(None, ge=1)  # type: ignore[assignment]
    """Passes over the labelled training images."""
    methods: list[Annotated[Part, PartOf("pruners")]] = Field(min_length=1)
    """Pruners; each says which stages it trains."""
    densities: list[Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    """Fractions of the prunable weights to keep: 0.1 prunes 90 % of them."""


class ComputeOptions(Options):
    """Hardware and precision. Bits are promised for the same machine, versions and threads."""

    device: Literal["auto", "cpu"] = "auto"
    """``auto``: the accelerator that is there, such as a GPU, or else the CPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward passes in training; evaluation is always fp32."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each process; if absent, as many as there are idle CPUs for it, or as
    ``OMP_NUM_THREADS`` says. Recorded in the results, and kept by a run that goes on."""
    channels_last: bool = False
    """Keep images and weights channels-last, which suits large convolutions."""
    sparse: _Switch = "auto"
    """Sparse kernels on CPUs, which skip pruned weights. ``auto``: clean accuracy, attacks and
    smoothing take them, of large networks of which little is kept, where they are faster. ``on``:
    of any network where they are faster, and stages whose masks stand still train through them.
    ``off``: nothing does. Which layers take them is measured, so that two runs may differ by
    rounding; a run that goes on keeps what it has measured. Bounds never take them."""


class PaperOptions(Options):
    """Where a setting stands in a paper, and the numbers that the paper gives for it."""

    source: str = Field(min_length=1)
    """The paper and its table."""
    metrics: dict[_Metric, dict[_Network, _Accuracy]] = {}
    """For each metric, named as in results.json, the number of each network, named as there:
    ``{pgd: {dense: 0.519, hydra-0.1: 0.495}}``. Fractions in [0, 1]."""


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
    """Minimised in every stage that names none of its own: over weights, over scores, over the
    weights that are left."""
    pretrain: StageOptions | None = None
    """Trains the dense network; may be left out if ``model.weights`` names trained ones, or if no
    pruner starts from a dense network."""
    prune: PruneOptions | None = None
    """Learns what to keep; without it the run ends with the dense network."""
    finetune: StageOptions | None = None
    """Trains what is kept; without it pruned networks are judged as they are."""
    evaluate: list[Annotated[Part, PartOf("evaluators")]] = []
    """Evaluators that judge each network."""
    measures: list[Annotated[Part, PartOf("measures")]] = Field(
        ["size", "flops"], validate_default=True
    )
    """Measures of each network as a whole."""
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

    @property
    def stages(self) -> dict[str, StageOptions]:
        """The options of the sections that say how to train: pretrain, prune, finetune."""
        prune = None
        if self.prune is not None and self.prune.epochs is not None:
            prune = StageOptions(**{k: getattr(self.prune, k) for k in StageOptions.model_fields})
        found = {"pretrain": self.pretrain, "prune": prune, "finetune": self.finetune}
        return {name: options for name, options in found.items() if options is not None}

    def objective_of(self, options: StageOptions | None) -> Any:
        """The objective that a stage minimises: its own, or the recipe's."""
        return (options and options.objective) or self.objective

    def needs(self) -> set[str]:
        """The networks that pruners, and what their stages minimise, need; see `Pruner.needs`."""
        found: set[str] = set()
        methods: list[Any] = [] if self.prune is None else list(self.prune.methods)
        for pruner in methods:
            assert self.prune is not None
            found.update(pruner.needs())
            with suppress(UsageError):  # a section is missing, as `inconsistencies` tells
                for stage in pruner.stages(self.prune.densities[0], self.stages):
                    found.update(self.objective_of(stage.options).needs)
        return found

    def document(self) -> dict[str, Any]:
        """The resolved recipe as plain values: every option, defaults included."""
        return self.model_dump(mode="json")
