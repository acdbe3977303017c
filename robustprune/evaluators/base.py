"""What every evaluator is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from robustprune.errors import ContractError
from robustprune.evaluators import accuracy
from robustprune.evaluators.omissions import Omissions
from robustprune.modes import eval_mode
from robustprune.parts import Part
from robustprune.seeding import fork
from robustprune.types import Batch, Threat

if TYPE_CHECKING:
    from torch import Tensor, nn

    PerImage = dict[str, Tensor]
    Batches = Iterable[Batch]


class Evaluator(Part):
    """Judges a baked network image by image, in batches of a fixed size.

    The size is part of the recipe because results depend on it to the bit, so it never follows
    the machine.
    """

    label: str | None = Field(None, pattern=r"^[\w][\w.-]*$")
    """What the metric is called in results; the evaluator's name if absent."""
    samples: int | None = Field(None, ge=1)
    """Judge only the first so many test images; all of them if absent."""
    batch_size: int = Field(250, ge=1)
    """Images a batch."""

    effort: ClassVar[tuple[str, ...]] = ()
    """Fields of which a bare `metric` promises the default: how hard an attack tries."""

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
        """What of its `effort` is less than the default, as parts of a name."""
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
        """What becomes of each image of one batch, whatever other batches were judged before it.

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

    def summarise(self, images: PerImage) -> dict[str, float | int | list[float]]:
        """From what became of all images to the numbers in ``results.json``.

        Override it for numbers that belong to several entries at once, and keep the convention: a
        metric ``x`` has its number of images ``x_n`` beside it, an accuracy ``x_interval`` too.

        Args:
            images: what `judge` gave, the batches joined, on the CPU.

        Returns:
            See `robustprune.evaluators.accuracy.summarise`. Finite numbers only: JSON has no NaN.
        """
        return accuracy.summarise(images)

    def omissions(self) -> Omissions:
        """What was left out of the batch that was judged last; asked for once after each."""
        return Omissions()

    def evaluate(
        self, model: nn.Module, batches: Batches, *, seed: int, network: str
    ) -> Iterator[PerImage]:
        """`judge` each batch in a random state of its own, and yield what it gave, on the CPU.

        That state follows from the batch's number: a batch is judged alike whatever others are
        judged before it, or by other processes.

        The network is in eval mode and wants no gradients meanwhile, so that an attack's backward
        pass neither fills them nor pays for them; each module and parameter is restored.
        """
        import torch

        with eval_mode(model), _frozen(model):
            for number, images, labels in batches:
                with (
                    fork(seed, network, self.label or self.stem, number) as derived,
                    torch.enable_grad(),
                ):
                    results = self.judge(model, images, labels, seed=derived % 2**31)
                yield _on_cpu(self, results)


def _on_cpu(evaluator: Evaluator, results: PerImage) -> PerImage:
    try:
        return {name: values.detach().cpu() for name, values in results.items()}
    except AttributeError as error:
        message = f"evaluator '{evaluator.metric}': judge must give tensors by name ({error})."
        raise ContractError(evaluator, message) from None


def weaker(values: Mapping[str, Any], usual: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Settings that promise less than the usual ones, as parts of a name.

    Of numbers the smaller ones do, of choices every other one. ``steps`` stand as a bare number,
    as the field writes PGD-20.
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
