"""The base of every evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from robustprune.components import Part
from robustprune.errors import ContractError
from robustprune.evaluators.accuracy import Metrics, PerImage, summarise
from robustprune.seeding import fork
from robustprune.train_mode import eval_mode
from robustprune.types import Batch, Threat

Batches = Iterable[Batch]


class Evaluator(Part):
    """Judges a baked network image by image, in batches of a fixed size.

    The size is part of the recipe because results depend on it to the bit, so it never follows
    the machine.
    """

    label: str | None = Field(None, pattern=r"^[\w][\w.-]*$")
    """Name of the metric in results; the evaluator's name if absent."""
    samples: int | None = Field(None, ge=1)
    """Judge only the first so many test images; all of them if absent."""
    batch_size: int = Field(250, ge=1)
    """Images per batch."""

    @field_validator("label")
    @classmethod
    def _is_no_column(cls, label: str | None) -> str | None:
        if label in ("index", "label"):
            raise ValueError(
                f"'{label}' is the name of a column of every table of images. Give it another one"
            )
        return label

    effort: ClassVar[tuple[str, ...]] = ()
    """Fields of which a bare `metric` promises the default: how hard an attack tries."""

    calls_only: ClassVar[bool] = False
    """True if the network is only called, and differentiated once, by its images: not copied,
    traced or looked into, as bounds do. Then a sparse copy that computes alike may stand in."""

    @property
    def passes(self) -> int:
        """Passes of an image through the network, forward or backward, in rough numbers."""
        return 1

    def shown(self, images: int) -> int:
        """Number of images that the network sees at once, of so many that are judged."""
        return min(self.batch_size, images)

    @property
    def metric(self) -> str:
        """The name of the accuracy in ``results.json``, in tables and in MLflow.

        It is the label. Without one it is the `stem` with the `departures`, because an attack that
        tries less than its name promises flatters: ``autoattack-10`` has 10 steps.
        """
        return self.label or "-".join([self.stem, *self.departures])

    @property
    def stem(self) -> str:
        """The metric's name by default settings; random draws are named by it, too."""
        return self.registered_name

    @property
    def departures(self) -> list[str]:
        """Settings among its `effort` that are less than the default, as parts of a name."""
        usual = {key: field.default for key, field in type(self).model_fields.items()}
        return weaker(dict(self), usual, self.effort)

    @property
    def refutes(self) -> Threat | None:
        """For attacks: the ball that is searched; None if there is none.

        `metric` False, on an image that is classified rightly, means that something in the ball
        fooled the network.
        """
        return None

    @property
    def claims(self) -> Threat | None:
        """For certificates: the ball that is promised to be safe; None if there is none.

        `metric` True means that the network itself classifies every image in the ball rightly,
        its middle included; a certificate of another classifier (a smoothed one) claims nothing
        here. Where an attack in the same ball or a smaller one refutes it, the run ends with an
        alarm.
        """
        return None

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> PerImage:
        """Judge each image of one batch, whatever other batches were judged before it.

        Args:
            model: a baked network in eval mode, on the images' device; no parameter wants a
                gradient.
            images: ``(n, channels, height, width)``, float in [0, 1].
            labels: ``(n,)``, int64.
            seed: for attacks that seed themselves; the global generators are forked already.

        Returns:
            Tensors of length n by metric name. Boolean: the image counts towards an accuracy,
            reported as its mean with an interval. Floating: reported as its median over the
            entries that are finite. Integer (counts, classes, what settled an image): for the
            table of images only. `metric` must be among the names, and boolean if the evaluator
            `refutes` or `claims` a ball.
        """
        raise TypeError(f"{type(self).__name__} must define judge(model, images, labels, seed=…)")

    def summarise(self, images: PerImage) -> Metrics:
        """Make the numbers in ``results.json`` of the results of all images.

        Override it for numbers that belong to several entries at once, and keep the convention: a
        metric ``x`` has its number of images ``x_n`` beside it, an accuracy ``x_interval`` too.

        Args:
            images: what `judge` gave, the batches joined, on the CPU; nothing else may matter.

        Returns:
            See `robustprune.evaluators.accuracy.summarise`. Finite numbers only: JSON has no NaN.
        """
        return summarise(images)

    def evaluate(
        self, model: nn.Module, batches: Batches, *, seed: int, network: str
    ) -> Iterator[PerImage]:
        """`judge` each batch in a random state of its own, and yield what it gave, on the CPU.

        That state follows from the batch's number: a batch is judged alike whatever others are
        judged before it, or by other processes.

        The network is in eval mode and wants no gradients meanwhile, so that an attack's backward
        pass neither fills them nor pays for them; both are put back.
        """
        name = self.label or self.stem
        with eval_mode(model), _frozen(model):
            for number, images, labels in batches:
                with fork(seed, network, name, number) as derived, torch.enable_grad():
                    results = self.judge(model, images, labels, seed=derived % 2**31)
                check_results(self, results, n=len(labels))
                yield {name: values.detach().cpu() for name, values in results.items()}


def check_results(evaluator: Evaluator, results: PerImage, *, n: int) -> None:
    """Hold the results of one batch of n images against the evaluator's contract.

    Raises:
        ContractError: they break it.
    """
    name, wrong = evaluator.metric, ""
    if not isinstance(results, Mapping) or not all(map(torch.is_tensor, results.values())):
        wrong = f"judge must give tensors by name; got {type(results).__name__}."
    elif name not in results:
        wrong = f"judge must give an entry '{name}'; got {list(results)}."
    elif shapes := {key: tuple(v.shape) for key, v in results.items() if v.shape != (n,)}:
        wrong = f"judge must give one value an image, shape ({n},); got {shapes}."
    elif (evaluator.claims or evaluator.refutes) and results[name].dtype != torch.bool:
        wrong = (
            f"it claims or refutes a ball, so its entry '{name}' must be boolean; got "
            f"{results[name].dtype}."
        )
    if wrong:
        raise ContractError(evaluator, f"evaluator '{name}': {wrong}")


def weaker(values: Mapping[str, Any], usual: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Settings that promise less than the usual ones, as parts of a name.

    A number does if it is smaller, a choice if it is another. ``steps`` stand as a bare number, as
    the field writes PGD-20.
    """
    numbers = {key for key in keys if isinstance(usual[key], int | float)}
    differ = [key for key in keys if values[key] != usual[key]]
    said = [key for key in differ if key not in numbers or values[key] < usual[key]]
    named = {key for key in numbers if key != "steps"}
    return [f"{key}-{values[key]}" if key in named else str(values[key]) for key in said]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
