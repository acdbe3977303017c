"""The recipe's ``model:`` section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from robustprune.errors import UsageError
from robustprune.models import factory
from robustprune.parts import Options
from robustprune.paths import usable

if TYPE_CHECKING:
    from torch import nn


class ModelOptions(Options):
    """The network. What is not given here follows from the dataset."""

    name: str
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

    weights: str | None = None
    """Start from these: a file of robustprune's, a plain state dict (``.safetensors``, or what
    `torch.save` wrote), or ``pretrained`` for timm's own. A relative path starts from the working
    directory."""

    args: dict[str, Any] = Field(default_factory=dict)
    """More arguments of the model's constructor, e.g. ``{drop_rate: 0.1}``."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        factory.check_name(name)
        return name

    @field_validator("weights")
    @classmethod
    def _path(cls, weights: str | None) -> str | None:
        return weights if weights is None else str(usable(weights))

    @field_validator("args")
    @classmethod
    def _free(cls, args: dict[str, Any]) -> dict[str, Any]:
        factory.check_args(args)
        return args

    def resolved(
        self, *, num_classes: int, in_chans: int, image_size: int | None = None
    ) -> dict[str, Any]:
        """Arguments from which `create_model` builds this network, as plain JSON values.

        They are complete: nothing in them depends on a default of ours or on timm's weights.

        Args:
            num_classes: the dataset's.
            in_chans: the dataset's.
            image_size: the dataset's height and width.

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
        mean, std = factory.default_normalisation(self.name, in_chans)
        return {
            "name": self.name,
            "num_classes": classes,
            "in_chans": in_chans,
            "image_size": image_size,
            "mean": mean if self.mean is None else self.mean,
            "std": std if self.std is None else self.std,
            **self.args,
        }

    def build(self, *, num_classes: int, in_chans: int, image_size: int | None = None) -> nn.Module:
        """The network for a dataset; see `resolved` and `create_model`."""
        options = self.resolved(num_classes=num_classes, in_chans=in_chans, image_size=image_size)
        return factory.create_model(**options)
