"""Plain state dicts, under the names the field gives to their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.artifacts.container import open_safetensors
from robustprune.artifacts.pickles import SUFFIXES, read_pickle
from robustprune.artifacts.saved import SavedModel, created, differences, listed
from robustprune.errors import UsageError
from robustprune.models.normalize import Normalized

_HOLDERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts put a state dict into a checkpoint."""

_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before each name."""

INSIDE, MEAN, STD = "backbone.", "normalize.mean", "normalize.std"
"""The names of a network that normalises, if its state dict says how."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, without the prefixes of wrappers.

    Args:
        path: ``.safetensors``, or what `torch.save` wrote: the state dict itself, or a checkpoint
            that holds it.

    Raises:
        UsageError: it is missing, damaged, of another kind, or refused.
    """
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            return unwrapped({n: file.get_tensor(n) for n in file.keys()})  # noqa: SIM118
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
    others = [str(name) for name, value in held.items() if not _is_plain(value)]
    if others:
        raise UsageError(
            f"{path} holds no state dict: {', '.join(others[:5])} are no plain tensors (dense, not "
            f"quantised). It may hold it under one of the keys {', '.join(_HOLDERS)}."
        )
    return unwrapped({str(name): value for name, value in held.items()})


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


def read_exported_state_dict(path: Path, metadata: Mapping[str, Any]) -> SavedModel:
    """The network in a state dict that we exported, whose metadata names its architecture.

    Its masks are where pruned tensors are not zero.

    Raises:
        UsageError: it is damaged.
    """
    document = dict(metadata)
    masked = document.pop("masked", [])
    del document["layout"]
    model = created(path, document.get("model"))
    fill(path, model, read_tensors(path), name=str(document["model"]["name"]))
    try:
        masks = nonzeros(model, masked)
    except (KeyError, TypeError):
        raise UsageError(
            f"{path} is damaged: it names masks of tensors that are not there."
        ) from None
    return SavedModel(model.eval(), masks, document)


def fill(path: Path, model: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Load a state dict into a network, all of it.

    Counters of batches, which older files do not have, stay as they are if they are missing.

    Args:
        path: where it is from, for messages.
        model: changed in place.
        tensors: under the network's own names, or where it normalises its backbone's.
        name: the architecture's.

    Raises:
        UsageError: it does not fit.
    """
    target, tensors = model, dict(tensors)
    if isinstance(model, Normalized):
        target, tensors = model.backbone, _inside(path, model, tensors)
    own = target.state_dict()
    kept = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    if problems := differences(own, kept | tensors):
        raise UsageError(f"{path} does not fit model '{name}': {listed(problems)}.")
    target.load_state_dict(kept | tensors)


def nonzeros(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Masks of the named tensors, taken from where they are not zero.

    Raises:
        KeyError: the network has no such tensor.
    """
    tensors = model.state_dict()
    return {str(name): tensors[name] != 0 for name in names}


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without the prefixes that wrappers put before all of them."""
    names = dict(tensors)
    for _ in range(2):
        for prefix in _PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _inside(path: Path, model: Normalized, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's part of a state dict that may say how its images are normalised."""
    for name, own in ((MEAN, model.normalize.mean), (STD, model.normalize.std)):
        said = tensors.pop(name, None)
        if said is None:
            continue
        same = said.numel() == own.numel() and said.is_floating_point()
        if not (same and torch.allclose(said.float().flatten(), own.flatten())):
            raise UsageError(
                f"{path} normalises by {name} {said.flatten().tolist()}, and the model by "
                f"{own.flatten().tolist()}. Set the model's 'mean' and 'std' to the file's."
            )
    if tensors and all(name.startswith(INSIDE) for name in tensors):
        return {name.removeprefix(INSIDE): value for name, value in tensors.items()}
    return tensors


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _described(content: Any) -> str:
    if isinstance(content, nn.Module):
        return "a whole module"
    if isinstance(content, Mapping):
        return f"a mapping of {', '.join(map(str, list(content)[:8])) or 'nothing'}"
    return f"a {type(content).__name__}"
