"""The time that a recipe takes on this machine, from two steps of each stage and some images."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.datasets.source import Source
from robustprune.errors import InterruptedRun
from robustprune.masking import prunable_layers
from robustprune.pipeline.compute import Compute
from robustprune.pipeline.evaluate import judge
from robustprune.pipeline.evaluation_state import Subject
from robustprune.pipeline.plan import Plan, Table, works
from robustprune.pipeline.runner import run
from robustprune.recipe import Recipe
from robustprune.tracking import Console, Silent
from robustprune.tracking.progress import Whole, Work, duration

_STEPS = 3  # of a stage: the first one warms up


class Stopwatch(Whole):
    """Keeps the seconds of each step of each stage of a run, by network and stage."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__([], clock=clock)
        self.laps: dict[tuple[str, str], list[float]] = defaultdict(list)

    def begin(self, network: str, name: str, *, done: int = 0) -> None:
        """Start the watch."""
        self._of, self._since = (network, name), self._clock()

    def advance(self, units: int) -> None:
        """Note a lap."""
        now = self._clock()
        self.laps[self._of].append((now - self._since) / units)
        self._since = now

    def line(self, *, left: bool = True) -> str:
        """Nothing: there is no plan."""
        return ""


@dataclass
class Estimate:
    """The time of a recipe's work.

    Attributes:
        works: all of it.
        validation: validation images for each training image; one takes as long as a training one.
        steps: seconds of the steps that were timed, and the stage that they are of.
        images: seconds of an image, and the evaluator that it is of.
    """

    works: list[Work]
    validation: float
    steps: list[tuple[Work, list[float]]] = field(default_factory=list)
    images: list[tuple[Work, float]] = field(default_factory=list)

    def total(
        self, of: Callable[[list[float]], float] = lambda laps: sum(laps) / len(laps)
    ) -> float:
        """Seconds of everything, ``of`` choosing from the steps of a stage."""
        return sum(self._times(of).values())

    def table(self) -> Table:
        """A row for each kind of work, and one for all."""
        times = self._times(lambda laps: sum(laps) / len(laps))
        kinds: dict[str, list[Work]] = defaultdict(list)
        for work in self.works:
            kinds[" ".join(filter(None, (work.pruner, work.name)))].append(work)
        rows = []
        for kind, same in kinds.items():
            units, seconds = sum(work.units for work in same), sum(times[work] for work in same)
            unit = "image" if same[0].judges else "step"
            each = f"{seconds / max(units, 1):.2g} s"
            rows.append([kind, str(len(same)), f"{units:,} {unit}s", each, duration(seconds)])
        rows.append(["all", "", "", "", duration(sum(times.values()))])
        return ["part", "networks", "of each kind", "each", "in all"], rows

    @property
    def uncertainty(self) -> list[str]:
        """Lines for people on how far to trust it."""
        low, high = duration(self.total(min)), duration(self.total(max))
        lines = [f"by the faster of two steps of each stage {low}, by the slower one {high}."]
        if self.images:
            lines.append(
                "attacks are timed on a network that withstands them: at most that. Certificates "
                "of one that is hard to verify may take longer."
            )
        return [*lines, "not counted: reading data, writing files, and other load on this machine."]

    def _times(self, of: Callable[[list[float]], float]) -> dict[Work, float]:
        whole = Whole(self.works)
        for work, laps in self.steps:
            whole.learn(work, of(laps) * (1 + self.validation), 1)
        for work, seconds in self.images:
            whole.learn(work, seconds, 1)
        return {work: whole.seconds(work) or 0.0 for work in self.works}


def estimate(planned: Plan, *, console: Console) -> Estimate:
    """Time the work of a recipe as a run would do it, in a folder that is gone afterwards.

    Raises:
        UsageError: it cannot be run, and why.
    """
    recipe, data = planned.recipe, planned.data
    everything = works(recipe, data)
    train, validation = (len(part) if part else 0 for part in (data.train, data.validation))
    found = Estimate(everything, validation / max(train, 1))
    if any(not work.judges for work in everything):
        console.info("timing two steps of each stage …")
        first = {(work.network, work.name): work for work in everything}
        found.steps = [(first[of], laps) for of, laps in _steps(recipe).items() if of in first]
    judged = {work.name: work for work in everything if work.judges}
    evaluators: list[Any] = recipe.evaluate
    for evaluator in evaluators:
        if (work := judged.get(evaluator.metric)) is not None:
            console.info(f"timing one batch of {work.name} …")
            found.images.append((work, _image(planned, evaluator)))
    return found


def _steps(recipe: Recipe) -> dict[tuple[str, str], list[float]]:
    """Seconds of two steps of each stage of the networks at the first density."""
    changes: dict[str, Any] = {"evaluate": [], "measures": []}
    changes["tracking"] = recipe.tracking.model_copy(update={"enabled": False})
    if recipe.prune is not None:
        first = {"densities": recipe.prune.densities[:1]}
        changes["prune"] = recipe.prune.model_copy(update=first)
    console = _Timed()
    with TemporaryDirectory(prefix="robustprune-") as folder:
        runs = Path(folder)
        small = recipe.model_copy(update=changes)
        try:
            run(small, out=runs / "run", runs=runs, fresh=True, max_steps=_STEPS, console=console)
        except InterruptedRun:
            raise KeyboardInterrupt from None  # there is nothing to go on with
    return {of: laps[1:] or laps for of, laps in console.watch.laps.items()}


class _Timed(Silent):
    """Shows nothing, and times all that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = Stopwatch()

    @property
    def whole(self) -> Whole | None:
        return self.watch

    @whole.setter
    def whole(self, whole: Whole | None) -> None:
        """Keep the watch: a run brings its own."""


def _image(planned: Plan, evaluator: Any) -> float:
    """Seconds that an evaluator takes for an image, in a batch of a network that withstands it."""
    recipe, test = planned.recipe, planned.data.test
    assert test is not None
    n = int(min(evaluator.batch_size, evaluator.samples or len(test), len(test)))
    few = evaluator.model_copy(update={"samples": n})
    with Compute(recipe.compute) as compute:
        model = compute.placed(_steadfast(copy.deepcopy(planned.model)).eval())
        images: Any = _Labelled(test)
        subject = Subject(model, images, network="timed", seed=recipe.seed)
        began = time.monotonic()
        judge(few, subject, device=compute.device, console=Silent())
        return (time.monotonic() - began) / n


def _steadfast(model: nn.Module) -> nn.Module:
    """A network that answers class 0 whatever it is shown, where its last layer has a bias.

    An attack that stops where it has succeeded never does so here.
    """
    *_, last = prunable_layers(model).values()
    if isinstance(last.bias, Tensor):
        with torch.no_grad():
            last.bias[0] += 1000.0
    return model


class _Labelled:
    """Images that are all of class 0."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def ordered(self, *arguments: Any, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of a source, in its order."""
        for images, labels in self._source.ordered(*arguments, **options):
            yield images, torch.zeros_like(labels)
