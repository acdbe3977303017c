"""A caller's network as files describe it, and the reasons why some cannot be written."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.artifacts.saved import SavedModel, differences, listed, tensors_of
from robustprune.errors import UsageError
from robustprune.models import check_name, create_model
from robustprune.models.factory import Normalized
from robustprune.pipeline.results import installed_versions
from robustprune.pipeline.train import FORMAT
from robustprune.seeding import fork


def described(
    found: SavedModel,
    architecture: str | Mapping[str, Any] | None,
    classes: Sequence[str] | None,
    *,
    images: Tensor | None = None,
) -> SavedModel:
    """A network as files describe it: a copy on the CPU in eval mode, and its metadata.

    Args:
        found: of `network_of`.
        architecture: the name of a model, or arguments of `create_model`, of which the mean and
            the deviation are the network's if not said; what the network remembers if None.
        classes: the classes' names; not known if None.
        images: for the size of those that a network of the caller's own class takes.

    Raises:
        UsageError: the size is not known, or masks do not fit.
    """
    model = copy.deepcopy(found.model).cpu().eval()
    weights = model.state_dict()
    for name, mask in found.masks.items():
        weight = weights.get(name)
        if weight is None or weight.shape != mask.shape or mask.dtype != torch.bool:
            raise UsageError(f"masks: '{name}' is no boolean of a weight's name and shape.")
        if bool(weight[~mask.cpu()].count_nonzero()):
            raise UsageError(f"masks: '{name}' prunes weights that are not 0. Bake it first.")
    known: Any = found.metadata.get("model") or getattr(model, "created_with", None)
    if architecture is not None:
        known = {"name": architecture} if isinstance(architecture, str) else dict(architecture)
        known = statistics(model, int(known.get("in_chans", 3))) | known
    if known is None:
        if images is None:
            raise UsageError(no_file(model))
        _, channels, height, width = images.shape
        if height != width:
            raise UsageError(f"images: files are for square images; got {height}×{width}.")
        kind = f"{_kind(model)} (not of create_model)"
        known = {"name": kind, "in_chans": channels, "image_size": height}
    about = {"format": FORMAT, **found.metadata, "model": dict(known)}
    about |= {"versions": installed_versions("robustprune", "torch")}
    if classes is not None:
        about["classes"] = list(classes)
    return SavedModel(model, {name: mask.cpu() for name, mask in found.masks.items()}, about)


def statistics(model: nn.Module, channels: int) -> dict[str, list[float]]:
    """The mean and the deviation by which a network normalises its images; 0 and 1 if it does not.

    ``channels`` is the number of the images'.
    """
    if not isinstance(model, Normalized):
        return {"mean": [0.0] * channels, "std": [1.0] * channels}
    own = model.normalize
    return {"mean": own.mean.flatten().tolist(), "std": own.std.flatten().tolist()}


def no_file(model: nn.Module) -> str:
    """The reason why a network of the caller's own class cannot be saved, and what to do."""
    return (
        f"model: a {_kind(model)} cannot be built again from a file: files are data and "
        "run no code, so they name an architecture of rp.create_model (ours, timm's, or your own, "
        "registered by timm.models.register_model). If it is one, say architecture={'name': …, "
        "'num_classes': …}. Otherwise use rp.export(model, 'net.onnx', images=…), which other "
        "runtimes run, or torch.save(model.state_dict(), 'net.pt'), for your own class to load."
    )


def _kind(model: nn.Module) -> str:
    return type(model.backbone if isinstance(model, Normalized) else model).__name__


def is_ours(saved: SavedModel) -> bool:
    """True if `create_model` knows the architecture that a network is said to be of."""
    try:
        check_name(saved.metadata["model"]["name"])
    except UsageError:
        return False
    return True


def rebuilt(model: nn.Module, architecture: Mapping[str, Any], images: Tensor) -> None:
    """Make sure that a network is what `create_model` builds from its arguments.

    Args:
        model: in eval mode, on the CPU.
        architecture: the arguments.
        images: to compare logits by.

    Raises:
        UsageError: its tensors or its logits are others.
    """
    with fork(0, "rebuilt"):
        other = create_model(**architecture).eval()
    tensors = tensors_of(model)
    if problems := differences(other.state_dict(), tensors, exact=True):
        raise UsageError(f"architecture: the network is another than it says: {listed(problems)}.")
    other.load_state_dict(tensors)
    with torch.no_grad():
        same = torch.equal(model(images), other(images))
    if not same:
        raise UsageError(
            "architecture: the network's tensors are those of it, and its logits are others: it "
            "computes in another way, or normalises its images (mean=…, std=…)."
        )
