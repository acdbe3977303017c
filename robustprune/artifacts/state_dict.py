"""Plain state dicts, under the names the field gives to their tensors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustprune.artifacts.checksummed import ModelFile
from robustprune.artifacts.limits import check_room, tensor_bytes
from robustprune.artifacts.names import COMPUTED, aligned, with_weights_computed
from robustprune.artifacts.pickles import SUFFIXES, read_pickle
from robustprune.artifacts.saved import Outline, SavedModel, differences, listed, not_plain
from robustprune.errors import UsageError
from robustprune.masking import prunable_layers
from robustprune.models.factory import Normalized, normalisation

_HOLDERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module"),
    *("net_state_dict", "weights", "params", "parameters"),
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "shadow"),
    *("averaged_model", "swa_model", "swa_state_dict"),
)
"""Keys under which training scripts put a state dict, averages last; they may be nested."""

# what stands beside the network and holds tensors, too
_BESIDE = re.compile(r"^opt|optim|sched|scaler")

COUNTER = "num_batches_tracked"
INSIDE, MEAN, STD = "backbone.", "normalize.mean", "normalize.std"
"""The names of a network that normalises, if its state dict says how."""

_STATISTICS = re.compile(
    r"_?(?:new_|norm_|image_|pixel_)?(?:(?P<mean>(?:mean|mu)s?)|(?:std|sigma|stdev)s?)"
)
"""Last parts of the names under which code of the field keeps a normalisation's statistics."""

_CHANNELS = 64  # more than images have, and fewer than layers of that name would
_MOST = 3  # names that are missing and looked for among those that are left over
_SMALLER = 8  # times, that a file may be than its tensors: lower precision, and shared memory


def read_state_dict(file: ModelFile, architecture: Mapping[str, Any]) -> SavedModel:
    """A network with the weights in a ``.safetensors``, or in what `torch.save` wrote.

    Args:
        file: a state dict, or a checkpoint that holds one; see `fitted` for its names.
        architecture: complete arguments of `create_model`.

    Raises:
        UsageError: the file cannot be read, or does not fit; the differences are listed.
    """
    path = file.path
    if path.suffix == ".safetensors":
        tensors = file.tensors
    elif path.suffix in SUFFIXES:
        tensors = state_dict_of(path, read_pickle(path))
    else:
        kinds = ", ".join((".safetensors", *SUFFIXES))
        raise UsageError(f"{path} is no file of weights by its name, which must end in: {kinds}.")
    return fitted(Outline(path, {"model": dict(architecture)}, tensors=len(tensors)), tensors)


def state_dict_of(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in a checkpoint; refused if there is none, or it holds no plain tensors."""
    held = _held(content)
    if held is None:
        kind = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            kind = f"a mapping of {', '.join(map(str, list(content)[:8])) or 'nothing'}"
        raise UsageError(
            f"{path} holds no state dict, but {kind}. It may hold one under any of the keys "
            f"{', '.join(_HOLDERS)}."
        )
    tensors = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    if others := not_plain(tensors):
        raise UsageError(
            f"{path} holds no state dict: {others} are no plain tensors (dense, not quantised)."
        )
    check_room(path, tensor_bytes(tensors.values()), held=path.stat().st_size, times=_SMALLER)
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
    others = [value for key, value in inside.items() if not _BESIDE.search(str(key))]
    found_in = [held for value in others if (held := _held(value, depth=depth - 1)) is not None]
    return found_in[0] if len(found_in) == 1 else None


def fitted(outline: Outline, tensors: Mapping[str, Tensor]) -> SavedModel:
    """The network of an architecture with a checkpoint's weights and masks.

    The names may be those that `robustprune.artifacts.names` knows. Counters of batches, which
    older files do not have, may be missing.

    Raises:
        UsageError: it does not fit, or a value is none.
    """
    path, architecture = outline.path, outline.metadata["model"]
    prefix = INSIDE if isinstance(outline.model, Normalized) else ""  # no code but ours puts it
    own = {name.removeprefix(prefix): value for name, value in outline.state.items()}
    masks: dict[int, Tensor] = {}  # by the weight that they are in
    found, others = aligned(own, tensors)
    if others:
        written, computed = with_weights_computed(tensors)
        masks = {id(written[name]): mask for name, mask in computed.items()}
        found, others = aligned(own, written)
    statistics = {name: value for name, value in others.items() if _statistic(name, value)}
    check_statistics(path, architecture, statistics)
    others = {name: value for name, value in others.items() if name not in statistics}
    found = {n: torch.tensor(0) for n in own if n.endswith(COUNTER)} | found
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
    model = outline.fill({f"{prefix}{name}": tensor for name, tensor in cast.items()})
    prunable = {f"{name}.weight".lstrip(".") for name in prunable_layers(model)}
    by_name = {f"{prefix}{n}": masks[id(t)] for n, t in found.items() if id(t) in masks}
    kept = {n: mask for n, mask in by_name.items() if n in prunable and not bool(mask.all())}
    return SavedModel(model, kept, outline.metadata)


def check_statistics(
    path: Path, architecture: Mapping[str, Any], said: Mapping[str, Tensor]
) -> None:
    """Make sure that a network normalises images as its checkpoint does, where that says how."""
    own = dict(zip(("mean", "std"), normalisation(**architecture), strict=True))
    of_file = {_statistic(name, value) or "": value for name, value in said.items()}
    for name, value in said.items():
        usual = own[_statistic(name, value) or ""]
        expected = torch.tensor(usual)
        same = value.is_floating_point() and value.numel() in (1, expected.numel())
        if not (same and torch.allclose(value.float().flatten(), expected, rtol=1e-4)):
            options = " and ".join(f"'{kind}' {shown(of_file[kind])}" for kind in sorted(of_file))
            raise UsageError(
                f"{path} normalises by {name} {shown(value)}, and the model by {usual}. To "
                f"normalise as the file does, name the model's {options}."
            )


def shown(value: Tensor) -> list[float]:
    """A tensor's few values, rounded to six digits."""
    return [round(number, 6) for number in value.double().flatten().tolist()]


def _statistic(name: str, value: Tensor) -> str | None:
    """Which of a normalisation's statistics a tensor is by its name and size: a mean, a std."""
    match = _STATISTICS.fullmatch(name.rpartition(".")[2].lower())
    if match is None or value.numel() > _CHANNELS:
        return None
    return "mean" if match["mean"] else "std"


def _remedy(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> str:
    """Remedies: for other arguments than were named, and for names that are nobody's."""
    both = own.keys() & found.keys()
    pairs = [(own[n].shape, found[n].shape) for n in both if own[n].shape != found[n].shape]
    rows = {theirs[0] for ours, theirs in pairs if theirs and ours[1:] == theirs[1:]}
    if own.keys() == found.keys() and len(pairs) <= 2 and len(rows) == 1:  # a last layer
        return f" If it tells {rows.pop()} classes apart, say so: num_classes."
    if part := next(filter(COMPUTED.fullmatch, others), None):
        return (
            f" {part} is part of a weight that is computed in a way which the file does not tell: "
            "save the network without parametrizations (torch.nn.utils.parametrize."
            "remove_parametrizations, torch.nn.utils.prune.remove, …)."
        )
    near = {
        name: difflib.get_close_matches(name, list(others)[:1000], n=1, cutoff=0.3)
        for name in sorted(own.keys() - found.keys())[:_MOST]
    }
    shown_pairs = ", ".join(f"{name} ({close[0]})" for name, close in near.items() if close)
    return f" Nearest to what is missing: {shown_pairs}." if shown_pairs else ""
