"""Plain state dicts, under the names the field gives to their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustprune.artifacts.container import open_safetensors
from robustprune.artifacts.limits import check_room, memory
from robustprune.artifacts.names import aligned, hint
from robustprune.artifacts.parametrised import computed, written_out
from robustprune.artifacts.pickles import SUFFIXES, read_pickle
from robustprune.artifacts.saved import (
    SavedModel,
    differences,
    filled,
    is_plain,
    listed,
    outlined,
)
from robustprune.artifacts.sealed import read_sealed
from robustprune.errors import UsageError
from robustprune.masking import prunable_layers
from robustprune.models.factory import normalisation
from robustprune.models.normalize import Normalized

_HOLDERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module"),
    *("net_state_dict", "weights", "params", "parameters"),
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "shadow"),
    *("averaged_model", "swa_model", "swa_state_dict"),
)
"""Keys under which training scripts put a state dict, averages last; they may be nested."""

_ELSE = re.compile(
    r"^opt|optim|sched|scaler"
)  # what stands beside the network and holds tensors, too

COUNTER = "num_batches_tracked"
INSIDE, MEAN, STD = "backbone.", "normalize.mean", "normalize.std"
"""The names of a network that normalises, if its state dict says how."""

_STATISTICS = {
    "mean": re.compile(r"_?(new_|norm_|image_|pixel_)?(mean|mu)s?"),
    "std": re.compile(r"_?(new_|norm_|image_|pixel_)?(std|sigma|stdev)s?"),
}
"""Last parts of the names under which code of the field keeps a normalisation's statistics."""

_CHANNELS = 64  # more than images have, and fewer than layers of that name would
_SMALLER = 8  # times, that a file may be than its tensors: lower precision, and shared memory


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
    held = _held(content)
    if held is None:
        raise UsageError(
            f"{path} holds no state dict, but {_described(content)}. It may hold one under any of "
            f"the keys {', '.join(_HOLDERS)}."
        )
    tensors = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    if others := [name for name, value in tensors.items() if not is_plain(value)]:
        raise UsageError(
            f"{path} holds no state dict: {', '.join(others[:5])} are no plain tensors (dense, not "
            "quantised)."
        )
    check_room(path, memory(tensors.values()), held=path.stat().st_size, times=_SMALLER)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _held(content: Any, *, depth: int = 4) -> Mapping[Any, Any] | None:
    """The mapping of names to tensors in a checkpoint, if it is clear which that is."""
    if not isinstance(content, Mapping) or not depth:
        return None
    inside = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    for key in _HOLDERS:
        if key in inside and (found := _held(inside[key], depth=depth - 1)) is not None:
            return found
    if any(isinstance(value, Tensor) for value in content.values()):
        return content
    others = [value for key, value in inside.items() if not _ELSE.search(str(key))]
    found_in = [held for value in others if (held := _held(value, depth=depth - 1)) is not None]
    return found_in[0] if len(found_in) == 1 else None


def read_state_dict(path: Path, architecture: Mapping[str, Any]) -> SavedModel:
    """A network of a known architecture, with the weights in a file.

    Args:
        path: see `read_tensors`. The names are the architecture's own, or where it normalises
            those of the backbone alone.
        architecture: complete arguments of `create_model`.

    Raises:
        UsageError: the file cannot be read, or does not fit; the differences are listed.
    """
    model, masks = fitted(path, {"model": architecture}, read_tensors(path))
    return SavedModel(model, masks, {"model": dict(architecture)})


def read_exported_state_dict(path: Path) -> SavedModel:
    """The network in a state dict that we exported, whose metadata names its architecture.

    Its masks are where pruned tensors are not zero.

    Raises:
        UsageError: it is damaged.
    """
    metadata, tensors = read_sealed(path)
    masked = metadata.pop("masked", [])
    del metadata["layout"]
    outline = outlined(path, metadata, tensors=len(tensors))
    weights = dict(tensors)
    if isinstance(outline, Normalized):
        said = {name: weights.pop(name) for name in (MEAN, STD) if name in weights}
        _check_statistics(path, metadata["model"], said)
    if problems := differences(outline.state_dict(), weights, exact=True):
        raise UsageError(f"{path} is damaged: {listed(problems)}.")
    model = filled(path, metadata, outline, weights)
    return SavedModel(model, nonzeros(path, model, masked), metadata)


def fitted(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network of an architecture with the weights of a checkpoint, all of them, in eval mode.

    The names may stand behind those of wrappers, be another library's, or be those of what weights
    are computed from; see `robustprune.artifacts.names` and `robustprune.artifacts.parametrised`.
    Counters of batches, which older files do not have, may be missing.

    Args:
        path: where it is from, for messages.
        metadata: ``model``, the arguments of `create_model`, and ``surgery``, if there is any.
        tensors: a state dict.

    Returns:
        The network, and the masks that the checkpoint holds, by parameter name.

    Raises:
        UsageError: it does not fit, or a value is none.
    """
    architecture = metadata["model"]
    outline = outlined(path, metadata, tensors=len(tensors))
    prefix = INSIDE if isinstance(outline, Normalized) else ""  # no code but ours puts it there
    own = {name.removeprefix(prefix): value for name, value in outline.state_dict().items()}
    found, masks, statistics, others = _named(own, tensors)
    _check_statistics(path, architecture, statistics)
    counters = {name: torch.tensor(0) for name in own if name.endswith(COUNTER)}
    found = counters | found
    if problems := differences(own, found | others):
        raise UsageError(
            f"{path} does not fit model '{architecture['name']}': {listed(problems)}."
            f"{_remedy(own, found, others)}"
        )
    cast = {name: tensor.to(own[name].dtype) for name, tensor in found.items()}
    if wrong := [name for name, tensor in cast.items() if not bool(tensor.isfinite().all())]:
        raise UsageError(
            f"{path} has values that are infinite or no numbers, in {', '.join(wrong[:5])}."
        )
    weights = {f"{prefix}{name}": tensor for name, tensor in cast.items()}
    prunable = {f"{name}.weight".lstrip(".") for name in prunable_layers(outline)}
    kept = {f"{prefix}{name}": mask for name, mask in masks.items() if not bool(mask.all())}
    model = filled(path, metadata, outline, weights)
    return model, {name: mask for name, mask in kept.items() if name in prunable}


def nonzeros(path: Path, model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Masks of the named tensors, taken from where they are not zero; ``path`` is for messages.

    Raises:
        UsageError: the network has no such tensor.
    """
    tensors = model.state_dict()
    if unknown := sorted(set(names) - tensors.keys()):
        raise UsageError(f"{path} is damaged: it names masks of {listed(unknown)}, which it lacks.")
    return {name: tensors[name] != 0 for name in names}


class _Named(NamedTuple):
    """A checkpoint's content under a network's names: weights, masks, statistics, and the rest."""

    tensors: dict[str, Tensor]
    masks: dict[str, Tensor]
    statistics: dict[str, Tensor]
    others: dict[str, Tensor]


def _named(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> _Named:
    found = aligned(own, tensors)
    if not found.others:  # as they are, whatever they are called
        return _Named(found.tensors, {}, {}, {})
    written, masks = written_out(tensors)
    found = aligned(own, written)
    statistics = {name: value for name, value in found.others.items() if _statistic(name, value)}
    others = {name: value for name, value in found.others.items() if name not in statistics}
    of = {id(written[name]): mask for name, mask in masks.items()}
    kept = {name: of[id(value)] for name, value in found.tensors.items() if id(value) in of}
    return _Named(found.tensors, kept, statistics, others)


def _statistic(name: str, value: Tensor) -> str | None:
    """Which of a normalisation's statistics a tensor is by its name and size: a mean, a std."""
    last = name.rpartition(".")[2].lower()
    if value.numel() > _CHANNELS:
        return None
    return next((kind for kind, pattern in _STATISTICS.items() if pattern.fullmatch(last)), None)


def _check_statistics(
    path: Path, architecture: Mapping[str, Any], said: Mapping[str, Tensor]
) -> None:
    """Make sure that a network normalises its images as its checkpoint does, where that says how.

    Raises:
        UsageError: it does not; the message says how to.
    """
    own = dict(zip(("mean", "std"), normalisation(**architecture), strict=True))
    values = {kind: v for name, v in said.items() if (kind := _statistic(name, v)) is not None}
    for name, value in said.items():
        kind = _statistic(name, value) or ""
        expected = torch.tensor(own[kind])
        same = value.is_floating_point() and value.numel() in (1, expected.numel())
        if not (same and torch.allclose(value.float().flatten(), expected, rtol=1e-4)):
            shown = " and ".join(f"'{k}' {_shown(v)}" for k, v in sorted(values.items()))
            raise UsageError(
                f"{path} normalises by {name} {_shown(value)}, and the model by {own[kind]}. To "
                f"normalise as the file does, name the model's {shown}."
            )


def _shown(value: Tensor) -> list[float]:
    return [round(number, 6) for number in value.double().flatten().tolist()]


def _remedy(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> str:
    """How to go on: for other arguments than were named, and for names that are nobody's."""
    if parts := computed(others):
        return (
            f" {parts[0]} is part of a weight that is computed in a way which the file does not "
            "tell: save the network without parametrizations (torch.nn.utils.parametrize."
            "remove_parametrizations, torch.nn.utils.prune.remove)."
        )
    both = own.keys() & found.keys()
    pairs = [(own[n].shape, found[n].shape) for n in both if own[n].shape != found[n].shape]
    rows = {theirs[0] for ours, theirs in pairs if theirs and ours[1:] == theirs[1:]}
    if own.keys() == found.keys() and len(pairs) <= 2 and len(rows) == 1:  # a last layer
        return f" If it tells {rows.pop()} classes apart, say so: num_classes."
    return hint(sorted(own.keys() - found.keys()), others)


def _described(content: Any) -> str:
    if isinstance(content, nn.Module):
        return "a whole module"
    if isinstance(content, Mapping):
        return f"a mapping of {', '.join(map(str, list(content)[:8])) or 'nothing'}"
    return f"a {type(content).__name__}"
