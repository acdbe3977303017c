"""The recipe's ``model:`` section."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from robustprune.components import Options
from robustprune.errors import UsageError
from robustprune.models.factory import check_args, check_name, normalisation
from robustprune.paths import usable


class ModelOptions(Options):
    """The network. What is not given here follows from the dataset."""

    name: Annotated[str, AfterValidator(check_name)]
    """One of our backbones, or any model that timm knows."""

    num_classes: int | None = Field(default=None, ge=2)
    """Number of logits; default: the dataset's classes."""

    in_chans: int | None = Field(default=None, ge=1)
    """Number of input channels; default: the dataset's."""

    mean: list[float] | None = None
    """Subtracted from each channel of the images in [0, 1]; default: 0 for our backbones, what the
    pretrained weights take for timm's."""

    std: list[Annotated[float, Field(gt=0)]] | None = None
    """Each channel is divided by it; default: 1 for our backbones, what the pretrained weights take
    for timm's."""

    weights: Annotated[str, AfterValidator(lambda path: str(usable(path)))] | None = None
    """Start from these: a file of robustprune's, a plain state dict (``.safetensors``, or what
    `torch.save` wrote), or ``pretrained`` for timm's own. A relative path starts from the working
    directory."""

    args: Annotated[dict[str, Any], AfterValidator(check_args)] = Field(default_factory=dict)
    """More arguments of the model's constructor, e.g. ``{drop_rate: 0.1}``."""

    def resolved(
        self, *, num_classes: int, in_chans: int, image_size: int | None = None
    ) -> dict[str, Any]:
        """Arguments from which `create_model` builds this network for a dataset, as JSON values.

        They are complete: nothing in them depends on a default of ours or on timm's weights.

        Raises:
            UsageError: the options contradict the dataset.
        """
        classes = self.num_classes or num_classes
        if classes < num_classes:
            raise UsageError(
                f"model.num_classes is {classes}, but the dataset has {num_classes} classes."
            )
        if self.in_chans not in (None, in_chans):
            raise UsageError(
                f"model.in_chans is {self.in_chans}, but the dataset's images have {in_chans}."
            )
        mean, std = normalisation(self.name, in_chans, self.mean, self.std)
        return {
            "name": self.name,
            "num_classes": classes,
            "in_chans": in_chans,
            "image_size": image_size,
            "mean": mean,
            "std": std,
            **self.args,
        }
