"""A network that was read from a file, whatever the file's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.artifacts.limits import bounded, check_numbers, check_room, held_by, memory
from robustprune.artifacts.surgery import operated
from robustprune.errors import UsageError, first_line
from robustprune.models import create_model
from robustprune.models.factory import is_foreign
from robustprune.seeding import fork

_MOST = 8  # differences that are listed
_BESIDE = 8  # how much larger a network may be than its state dict, by what no file keeps
_UNCUT = 100  # how much larger it may have been before surgery


@dataclass(frozen=True)
class SavedModel:
    """What a model file holds.

    Attributes:
        model: a plain network in eval mode, masks baked.
        masks: the mask of each pruned parameter by its name; empty for a dense network.
        metadata: architecture and provenance; ``metadata["model"]`` and, of
            one that has been cut, ``metadata["surgery"]`` rebuild the network.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    metadata: dict[str, Any]


def try_on(model: nn.Module, images: Tensor, *, purpose: str) -> None:
    """Make sure that a network takes images, before anything is asked of them.

    Raises:
        UsageError: it raises, as networks do about a size that they were not made for.
    """
    try:
        with torch.no_grad():
            model(images)
    except Exception as error:  # of any network
        size = "×".join(map(str, images.shape[1:]))
        raise UsageError(
            f"the network does not take images of {size}, with which {purpose} "
            f"({first_line(error)}). Say what its images are: --data NAME."
        ) from None


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """A network's state dict.

    Raises:
        UsageError: something in it is no dense tensor, so that no file could hold it.
    """
    found = dict(model.state_dict())
    others = [name for name, value in found.items() if not is_plain(value)]
    if others:
        raise UsageError(
            f"the network cannot be written: {', '.join(others[:5])} in its state dict are no "
            "plain tensors (dense, not quantised)."
        )
    return found


def is_plain(value: Any) -> bool:
    """Whether it is a dense tensor that has values."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and not value.is_quantized
    )


def outlined(path: Path, metadata: Mapping[str, Any], *, tensors: int) -> nn.Module:
    """The network that a file says it holds: names, shapes and types, and no memory for values.

    Args:
        path: the file, for messages.
        metadata: its ``model`` holds arguments of `create_model`, as anybody may have written
            them, and its ``surgery`` what was cut out of that network.
        tensors: how many the file holds, so that no network of many more is made.

    Raises:
        UsageError: there is no such architecture, or it is out of proportion to the file.
    """
    return operated(path, _outlined(path, metadata.get("model"), tensors=tensors), metadata)


def _outlined(path: Path, architecture: Any, *, tensors: int) -> nn.Module:
    check_numbers(path, architecture)
    with bounded(path, tensors=tensors):
        try:
            with torch.device("meta"):
                return created(path, architecture)
        except UsageError:
            if not (
                isinstance(architecture, Mapping) and is_foreign(str(architecture.get("name")))
            ):
                raise
        return created(path, architecture)  # not every constructor can go without values


def created(path: Path, architecture: Any) -> nn.Module:
    """The network of an architecture, with weights that are about to be overwritten.

    Args:
        path: the file that names it, for messages.
        architecture: arguments of `create_model`; compared with the file by `outlined` before.

    Raises:
        UsageError: there is no such architecture.
    """
    try:
        with fork(0, "read_model"):
            return create_model(**architecture)
    except UsageError:
        raise
    except Exception as error:  # of any constructor, about arguments of any kind
        raise UsageError(f"{path} does not say which architecture it holds ({error}).") from None


def rebuilt(
    path: Path,
    metadata: dict[str, Any],
    weights: Mapping[str, Tensor],
    masks: dict[str, Tensor],
    outline: nn.Module | None = None,
) -> SavedModel:
    """The network of one of our files, its tensors held against its architecture.

    Args:
        path: the file, for messages.
        metadata: its metadata.
        weights: its state dict.
        masks: boolean, by parameter name.
        outline: `outlined` from the metadata already, if it was.

    Raises:
        UsageError: the file is damaged; the differences are listed.
    """
    if outline is None:
        outline = outlined(path, metadata, tensors=len(weights))
    problems = differences(outline.state_dict(), weights, exact=True) + _wrong_masks(weights, masks)
    if problems:
        raise UsageError(f"{path} is damaged: {listed(problems)}.")
    model = filled(path, metadata, outline, weights)
    return SavedModel(model, masks, metadata)


def filled(
    path: Path, metadata: Mapping[str, Any], outline: nn.Module, weights: Mapping[str, Tensor]
) -> nn.Module:
    """The network in eval mode, with weights that were found to fit its outline.

    Args:
        path: the file, for messages.
        metadata: as for `outlined`.
        outline: what that gave.
        weights: its state dict.

    Raises:
        UsageError: it holds more beside its weights than they could have room for.
    """
    held = memory(weights.values())
    check_room(path, held_by(outline), held=held, times=_BESIDE)
    if metadata.get("surgery"):  # what was cut out is made first
        uncut = _outlined(path, metadata["model"], tensors=len(weights))
        check_room(path, held_by(uncut), held=held, times=_UNCUT)
    model = operated(path, created(path, metadata["model"]), metadata)
    model.load_state_dict(weights)
    return model.eval()


def differences(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, exact: bool = False
) -> list[str]:
    """How the names, shapes and types of two state dicts differ, a phrase each.

    Args:
        expected: the network's.
        found: the file's.
        exact: also where a float has another precision; otherwise only kinds of type must agree:
            floats, complex numbers, others.
    """
    kind = _dtype if exact else _kind
    missing, foreign = expected.keys() - found.keys(), found.keys() - expected.keys()
    return [
        *(f"{name} is missing" for name in sorted(missing)),
        *(f"{name} is not of this architecture" for name in sorted(foreign)),
        *(
            f"{name} has shape {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected
            if name in found and found[name].shape != expected[name].shape
        ),
        *(
            f"{name} is of type {found[name].dtype}, not {expected[name].dtype}"
            for name in expected
            if name in found and kind(found[name]) != kind(expected[name])
        ),
    ]


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _dtype(tensor: Tensor) -> torch.dtype:
    return tensor.dtype


def listed(problems: list[str]) -> str:
    """The first few problems, and how many more there are."""
    more = f"; and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
    return "; ".join(problems[:_MOST]) + more


def _wrong_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> list[str]:
    problems = []
    for name, mask in masks.items():
        if name not in weights or weights[name].shape != mask.shape or mask.dtype != torch.bool:
            problems.append(f"the mask of {name} does not fit")
        elif bool(weights[name][~mask].count_nonzero()):
            problems.append(f"{name} has weights that its mask has pruned")
    return problems
