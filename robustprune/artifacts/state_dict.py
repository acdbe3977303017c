"""Plain state dicts, under the names the field gives to their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.artifacts.container import open_safetensors
from robustprune.artifacts.pickles import SUFFIXES, read_pickle
from robustprune.artifacts.saved import SavedModel, created, differences, is_plain, listed
from robustprune.artifacts.sealed import read_sealed
from robustprune.errors import UsageError
from robustprune.models.normalize import Normalized

_HOLDERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts put a state dict into a checkpoint."""

_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before each name."""

COUNTER = "num_batches_tracked"
INSIDE, MEAN, STD = "backbone.", "normalize.mean", "normalize.std"
"""The names of a network that normalises, if its state dict says how."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, under the names that it has there.

    Args:
        path: ``.safetensors``, or what `torch.save` wrote: the state dict itself, or a checkpoint
            that holds it.

    Raises:
        UsageError: it is missing, damaged, of another kind, or refused.
    """
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if path.suffix not in SUFFIXES:
        kinds = ", ".join((".safetensors", *SUFFIXES))
        raise UsageError(f"{path} is no file of weights by its name, which must end in: {kinds}.")
    return state_dict_of(path, read_pickle(path))


def state_dict_of(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in a checkpoint, see `read_tensors`; ``path`` is for messages."""
    held = content
    if isinstance(content, Mapping):
        holders = (content[key] for key in _HOLDERS if isinstance(content.get(key), Mapping))
        held = next(holders, content)
    if not isinstance(held, Mapping) or not held:
        raise UsageError(f"{path} holds no state dict, but {_described(content)}.")
    others = [str(name) for name, value in held.items() if not is_plain(value)]
    if others:
        raise UsageError(
            f"{path} holds no state dict: {', '.join(others[:5])} are no plain tensors (dense, not "
            f"quantised). It may hold it under one of the keys {', '.join(_HOLDERS)}."
        )
    return {str(name): value for name, value in held.items()}


def read_state_dict(path: Path, architecture: Mapping[str, Any]) -> SavedModel:
    """A network of a known architecture, with the weights in a file.

    Args:
        path: see `read_tensors`. The names are the architecture's own, or where it normalises
            those of the backbone alone.
        architecture: complete arguments of `create_model`.

    Raises:
        UsageError: the file cannot be read, or does not fit; the differences are listed.
    """
    tensors = read_tensors(path)
    model = created(path, architecture)
    fill(path, model, tensors, name=str(architecture["name"]))
    return SavedModel(model.eval(), {}, {"model": dict(architecture)})


def read_exported_state_dict(path: Path) -> SavedModel:
    """The network in a state dict that we exported, whose metadata names its architecture.

    Its masks are where pruned tensors are not zero.

    Raises:
        UsageError: it is damaged.
    """
    metadata, tensors = read_sealed(path)
    masked = metadata.pop("masked", [])
    del metadata["layout"]
    model = created(path, metadata["model"])
    target, inner = _target(path, model, tensors)
    if problems := differences(target.state_dict(), inner, exact=True):
        raise UsageError(f"{path} is damaged: {listed(problems)}.")
    target.load_state_dict(inner)
    return SavedModel(model.eval(), nonzeros(path, model, masked), metadata)


def fill(path: Path, model: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Load a state dict into a network, all of it.

    The prefixes of wrappers are taken off names that do not fit as they are. Counters of batches,
    which older files do not have, stay as they are if they are missing.

    Args:
        path: where it is from, for messages.
        model: changed in place.
        tensors: under the network's own names, or where it normalises its backbone's.
        name: the architecture's.

    Raises:
        UsageError: it does not fit, or a value is none.
    """
    target, inner = _target(path, model, tensors)
    own = target.state_dict()
    counters = {key: own[key] for key in own if key.endswith(COUNTER)}
    if problems := differences(own, counters | inner):
        raise UsageError(
            f"{path} does not fit model '{name}': {listed(problems)}.{_remedy(own, inner)}"
        )
    cast = {key: tensor.to(own[key].dtype) for key, tensor in (counters | inner).items()}
    if wrong := [key for key, tensor in cast.items() if not bool(tensor.isfinite().all())]:
        raise UsageError(
            f"{path} has values that are infinite or no numbers, in {', '.join(wrong[:5])}."
        )
    target.load_state_dict(cast)


def nonzeros(path: Path, model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Masks of the named tensors, taken from where they are not zero; ``path`` is for messages.

    Raises:
        UsageError: the network has no such tensor.
    """
    tensors = model.state_dict()
    if unknown := sorted(set(names) - tensors.keys()):
        raise UsageError(f"{path} is damaged: it names masks of {listed(unknown)}, which it lacks.")
    return {name: tensors[name] != 0 for name in names}


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without the prefixes that wrappers put before all of them."""
    names = dict(tensors)
    for _ in range(2):
        for prefix in _PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _target(
    path: Path, model: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """What is to be filled, the network or the backbone in it, and the tensors for it.

    Names that fit are taken as they are, others without the prefixes of wrappers.
    """
    target = model.backbone if isinstance(model, Normalized) else model
    own, inner = target.state_dict().keys(), dict(tensors)
    for names in (tensors, unwrapped(tensors)):
        inner = dict(names)
        if isinstance(model, Normalized):
            inner = _without_statistics(path, model, names)
        if inner.keys() <= own:
            break
    return target, inner


def _without_statistics(
    path: Path, model: Normalized, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The backbone's part of a state dict that may say how its images are normalised."""
    inner = dict(tensors)
    for name, own in ((MEAN, model.normalize.mean), (STD, model.normalize.std)):
        said = inner.pop(name, None)
        if said is None:
            continue
        same = said.numel() == own.numel() and said.is_floating_point()
        if not (same and torch.allclose(said.float().flatten(), own.flatten())):
            raise UsageError(
                f"{path} normalises by {name} {said.flatten().tolist()}, and the model by "
                f"{own.flatten().tolist()}. Set the model's 'mean' and 'std' to the file's."
            )
    if inner and all(name.startswith(INSIDE) for name in inner):
        return {name.removeprefix(INSIDE): value for name, value in inner.items()}
    return inner


def _remedy(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """For a network that is of the architecture, but of other arguments than were named."""
    if MEAN in found and STD in found:
        mean, std = (found[name].flatten().tolist() for name in (MEAN, STD))
        return f" It normalises its images: name the model's 'mean' {mean} and 'std' {std}."
    both = own.keys() & found.keys()
    pairs = [(own[n].shape, found[n].shape) for n in both if own[n].shape != found[n].shape]
    rows = {theirs[0] for ours, theirs in pairs if theirs and ours[1:] == theirs[1:]}
    if own.keys() == found.keys() and len(pairs) <= 2 and len(rows) == 1:  # a last layer
        return f" If it tells {rows.pop()} classes apart, say so: num_classes."
    return ""


def _described(content: Any) -> str:
    if isinstance(content, nn.Module):
        return "a whole module"
    if isinstance(content, Mapping):
        return f"a mapping of {', '.join(map(str, list(content)[:8])) or 'nothing'}"
    return f"a {type(content).__name__}"
