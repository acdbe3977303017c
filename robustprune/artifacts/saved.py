"""A network as a file holds it, and how it is rebuilt: create, apply surgery, fill in tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from robustprune.artifacts.checksummed import ModelFile, write_checksummed
from robustprune.artifacts.limits import (
    check_numbers,
    check_room,
    limit_parameters,
    model_bytes,
    tensor_bytes,
)
from robustprune.artifacts.surgery import Cut, apply_surgery
from robustprune.errors import UsageError
from robustprune.models import create_model
from robustprune.models.factory import is_foreign
from robustprune.seeding import fork

Schema = TypeVar("Schema", bound=BaseModel)

MASK = "_mask"
"""Stands behind the name of a mask's parameter in a run's files, as in torch.nn.utils.prune."""

_MOST = 8  # differences that are listed
_BESIDE = 8  # how much larger a network may be than its state dict, by what no file keeps
_UNCUT = 100  # how much larger it may have been before surgery


@dataclass(frozen=True)
class SavedModel:
    """A network with what its file says of it.

    Attributes:
        model: a plain network in eval mode, masks baked.
        masks: the mask of each pruned parameter by its name; empty for a dense network.
        metadata: architecture and provenance; ``metadata["model"]`` and, of
            one that has been cut, ``metadata["surgery"]`` rebuild the network.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    metadata: dict[str, Any]


def save_model(
    path: Path, model: nn.Module, *, masks: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write a run's ``model.safetensors``, whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        model: a plain network, masks baked; it is written from the CPU in its own precision.
        masks: boolean, by parameter name.
        metadata: JSON values, as in `SavedModel`.
    """
    tensors = tensors_of(model) | {f"{name}{MASK}": mask for name, mask in masks.items()}
    write_checksummed(path, tensors, metadata)


def annotate(path: Path, **facts: Any) -> None:
    """Add JSON values to the metadata of a file of `save_model`; it is written only if they do."""
    metadata, tensors = ModelFile(path).checksummed()
    if metadata | facts != metadata:
        write_checksummed(path, tensors, metadata | facts)


class _Open(BaseModel):
    """A mapping in which more may stand than is known here; nothing is converted."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _Named(_Open):
    name: str


class _Metadata(_Open):
    """The keys that robustprune reads, and what they must be if they are there."""

    model: _Named
    data: _Named | None = None
    classes: list[str] = []
    objective: _Named | None = None
    pruner: _Named | None = None
    evaluate: list[_Named] = []
    metrics: dict[str, float | Annotated[list[float], Field(min_length=2, max_length=2)]] = {}
    alarms: list[dict[str, Any]] = []
    density: float = 1.0
    turnover: float | None = None
    recipe: str = ""
    network: str = ""
    seed: int = 0
    max_steps: int | None = None
    channels_last: bool = False
    versions: dict[str, str] = {}
    imported: dict[str, Any] = {}
    weights: str | dict[str, Any] | None = None
    values: str = ""
    split: str = "test"
    masked: list[str] = []
    layout: str = ""
    surgery: list[Cut] = []


def validated(path: Path, schema: type[Schema], document: Any, place: str) -> Schema:
    """A part of a file as an instance of a schema; if it is none, the file is damaged."""
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"].lower()]))
        raise UsageError(f"{path} is damaged: in its {place}, {reason}.") from None


class Outline:
    """The network that a file says it holds: names, shapes and types, and no memory for values.

    Args:
        path: the file, for messages.
        metadata: as in `SavedModel`, but anybody may have written it.
        tensors: how many the file holds.

    Attributes:
        model: the network on the meta device, unless its constructor cannot do without values.
        state: its state dict.

    Raises:
        UsageError: the metadata is damaged, or names no architecture, or one that is out of
            proportion to a file of so many tensors.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], *, tensors: int) -> None:
        validated(path, _Metadata, metadata, "metadata")
        self.path, self.metadata = path, metadata
        check_numbers(path, metadata["model"])
        with limit_parameters(path, tensors=tensors):
            self.model = self._create("meta")
        self._uncut = model_bytes(self.model)
        apply_surgery(path, self.model, metadata)
        self.state: dict[str, Tensor] = self.model.state_dict()

    def nonzero_masks(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of what the metadata names as ``masked`` (taken out of it): where it is not 0."""
        names = self.metadata.pop("masked", [])
        if unknown := sorted(set(names) - tensors.keys()):
            raise UsageError(f"{self.path} is damaged: it lacks the masked {listed(unknown)}.")
        return {name: tensors[name] != 0 for name in names}

    def rebuild(self, weights: Mapping[str, Tensor], masks: dict[str, Tensor]) -> SavedModel:
        """The network of a file of ours; refused, with a list, where the architecture differs."""
        problems = differences(self.state, weights, exact=True)
        for name, mask in masks.items():
            if name not in weights or weights[name].shape != mask.shape or mask.dtype != torch.bool:
                problems.append(f"the mask of {name} does not fit")
            elif bool(weights[name][~mask].count_nonzero()):
                problems.append(f"{name} has weights that its mask has pruned")
        if problems:
            raise UsageError(f"{self.path} is damaged: {listed(problems)}.")
        return SavedModel(self.fill(weights), masks, self.metadata)

    def fill(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The network in eval mode, with weights that fit; refused if it takes much more memory."""
        held = tensor_bytes(weights.values())
        check_room(self.path, model_bytes(self.model), held=held, times=_BESIDE)
        check_room(self.path, self._uncut, held=held, times=_UNCUT)  # it is made first
        model = apply_surgery(self.path, self._create("cpu"), self.metadata)
        model.load_state_dict(weights)
        return model.eval()

    def _create(self, device: str) -> nn.Module:
        """The network before surgery, with weights that are about to be overwritten."""
        architecture = self.metadata["model"]
        try:
            with fork(0, "read_model"), torch.device(device):
                return create_model(**architecture)
        except Exception as error:  # of any constructor, about arguments of any kind
            if device == "meta" and is_foreign(architecture["name"]):
                return self._create("cpu")  # not every constructor can go without values
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"{self.path} does not say which architecture it holds ({error})."
            ) from None


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """A network's state dict; refused if something in it is no dense tensor."""
    found = dict(model.state_dict())
    if others := not_plain(found):
        raise UsageError(
            f"the network cannot be written: {others} in its state dict are no plain tensors "
            "(dense, not quantised)."
        )
    return found


def not_plain(tensors: Mapping[str, Any]) -> str:
    """The first names of what is no dense tensor with values; empty if all is."""
    others = [
        name
        for name, value in tensors.items()
        if not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.is_meta
        or value.is_quantized
    ]
    return ", ".join(others[:5])


def differences(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, exact: bool = False
) -> list[str]:
    """Differences of a file's tensors from a network's in name, shape and type, a phrase each.

    Unless ``exact``, only kinds of type must agree: floats, complex numbers, others.
    """

    def kind(tensor: Tensor) -> object:
        return tensor.dtype if exact else (tensor.is_floating_point(), tensor.is_complex())

    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    others = sorted(found.keys() - expected.keys())
    problems += [f"{name} is not of this architecture" for name in others]
    for name, own in expected.items():
        its = found.get(name, own)
        if its.shape != own.shape:
            problems.append(f"{name} has shape {tuple(its.shape)}, not {tuple(own.shape)}")
        if kind(its) != kind(own):
            problems.append(f"{name} is of type {its.dtype}, not {own.dtype}")
    return problems


def listed(problems: list[str]) -> str:
    """The first few problems, and how many more there are."""
    more = f"; and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
    return "; ".join(problems[:_MOST]) + more
