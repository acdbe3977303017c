"""A caller's own network and images, made ready for what works on saved networks and datasets."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustprune import datasets
from robustprune.artifacts.backends.base import MEASURED
from robustprune.artifacts.checksummed import digest
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.components import Part, build
from robustprune.datasets import Dataset, Splits
from robustprune.datasets.given import (
    DatasetSource,
    LoaderSource,
    check_labels,
    source,
)
from robustprune.datasets.held import Given
from robustprune.datasets.source import Source
from robustprune.errors import UsageError, first_line
from robustprune.models.factory import Normalized
from robustprune.pipeline.evaluate import is_quantised
from robustprune.recipe import ComputeOptions
from robustprune.seeding import fork
from robustprune.train_mode import eval_mode

INSIDE = "backbone."
"""Stands before the names of a network's tensors where it is put behind its normalisation."""

Statistics = Sequence[float] | None


def plain(model: Any) -> nn.Module:
    """The network, if it is one and no masks are on it.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(model, nn.Module):
        remedy = " Pass its .model." if hasattr(model, "model") else ""
        remedy = " Call bake() first, and pass its .model." if hasattr(model, "bake") else remedy
        kind = type(model).__name__
        raise UsageError(f"model: expected a torch.nn.Module; got {kind}.{remedy}")
    return model


def trainable(model: Any) -> nn.Module:
    """A copy of a network, all of whose tensors may be trained.

    Raises:
        UsageError: it cannot be copied, some are frozen, or it is quantised.
    """
    if is_quantised(plain(model)):
        raise UsageError("model: it is quantised to int8 already. Prune the one it was made from.")
    frozen = [name for name, one in plain(model).named_parameters() if not one.requires_grad]
    if frozen:
        raise UsageError(
            f"model: {', '.join(frozen[:5])} want no gradient, and all tensors are trained here. "
            "Call model.requires_grad_(True) first; to leave layers unpruned, name them in the "
            "method's 'exclude'."
        )
    try:
        return copy.deepcopy(plain(model))
    except Exception as error:  # of anybody's module
        raise UsageError(
            f"model: {type(model).__name__} cannot be copied ({first_line(error)}). Where a hook "
            "computes weights, make them parameters first, e.g. torch.nn.utils.prune.remove."
        ) from None


def numbers(given: Any) -> list[float] | None:
    """Statistics as plain numbers, of whatever kind of sequence they are, or None.

    Raises:
        UsageError: they are no numbers.
    """
    if given is None:
        return None
    try:
        found: list[float] = torch.as_tensor(given, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(
            f"mean, std: expected a number for each channel; got {given!r:.60}."
        ) from None
    return found


def normalised(model: nn.Module, mean: Statistics, std: Statistics) -> nn.Module:
    """The network behind a normalisation, so that it takes images in [0, 1]; itself without one.

    Raises:
        UsageError: it has one already, or the statistics are none.
    """
    if mean is None and std is None:
        return model
    if isinstance(model, Normalized):
        values = ", ".join(f"{value:g}" for value in model.normalize.mean.flatten().tolist())
        raise UsageError(f"mean: the network normalises by itself already, by mean {values}.")
    size = len(mean or std or ())
    mean, std = list(mean or [0.0] * size), list(std or [1.0] * size)
    if not all(0 <= value <= 1 for value in mean):
        raise UsageError(
            f"mean: of pixels in [0, 1] it is in [0, 1], too; got {mean}. Where it is of pixels "
            "from 0 to 255, divide mean and std by 255."
        )
    if len(mean) != len(std) or not all(0 < value < math.inf for value in std):
        raise UsageError(
            f"std: expected a number above 0 for each channel, as mean {mean} has; got {std}."
        )
    made = Normalized(model, mean=mean, std=std)
    made.normalize.to(next((p.device for p in model.parameters()), None))
    if known := getattr(model, "created_with", None):
        made.created_with = {**known, "mean": mean, "std": std}  # type: ignore[assignment]
    return made


def fingerprint(model: nn.Module) -> str:
    """A digest that tells a network from what it was before it was changed."""
    return digest(model.state_dict(), {})


def network_of(
    model: Any,
    mean: Statistics = None,
    std: Statistics = None,
    masks: Mapping[str, Tensor] | None = None,
) -> SavedModel:
    """A network that takes images in [0, 1], from whatever holds one: see `rp.evaluate`.

    Args:
        model: a network, what `rp.prune` gave, or a file.
        mean: see `rp.prune`.
        std: see `rp.prune`.
        masks: by the names of the network that is given; those of pruning if None.

    Raises:
        UsageError: it is no network, or it normalises its images already.
    """
    mean, std = numbers(mean), numbers(std)
    if isinstance(model, str | Path):
        given = {"mean": mean, "std": std, "masks": masks}
        if said := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"{said[0]}: {model} says that itself. Load it and pass the network: "
                f"rp.load_model({str(model)!r})."
            )
        return read_model(Path(model))
    about: dict[str, Any] = {}
    if not isinstance(model, nn.Module) and hasattr(model, "about"):  # `rp.prune`'s
        about, known = dict(model.about), model.masks
        mean, std = mean or about.pop("mean", None), std or about.pop("std", None)
        model, masks = model.model, known if masks is None else masks
        if about.pop("judged", None) != fingerprint(model):  # it was trained on since
            about = {key: value for key, value in about.items() if key not in MEASURED}
    found = normalised(plain(model), mean, std)
    prefix = "" if found is model else INSIDE
    return SavedModel(found, {f"{prefix}{n}": mask for n, mask in (masks or {}).items()}, about)


def check_fits(model: nn.Module, images: Source, *, name: str) -> int:
    """Make sure that a network classifies images, and that labels are among its logits.

    Returns:
        The number of its logits.

    Raises:
        UsageError: it raises, whatever that is, or gives something else.
    """
    if not images:
        raise UsageError(f"{name}: there are no images in it.")
    first, labels = next(images.ordered(2, limit=2))
    given = next(iter(model.parameters()), first)
    size = "×".join(map(str, first.shape[1:]))
    try:
        with fork(0, "fit"), eval_mode(model), torch.no_grad():
            logits = model(first[:1].to(given.device))
    except Exception as error:  # of any network
        raise UsageError(
            f"model: {type(model).__name__} does not take the images of {name}, {size} floats in "
            f"[0, 1] ({type(error).__name__}: {first_line(error)})."
        ) from error
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 2 or shape[0] != 1:
        raise UsageError(
            f"model: expected logits (1, classes) for one image of {size}; {type(model).__name__} "
            f"gives {shape or type(logits).__name__}."
        )
    if isinstance(images, DatasetSource):
        images.classes = shape[1]
    check_labels(getattr(images, "labels", labels), shape[1], name=name)
    return int(shape[1])


def to_judge(data: Any, *, seed: int, classes: Sequence[str] = (), name: str = "data") -> Source:
    """The images to judge by: a dataset's test images, or those that are given.

    Args:
        data: of `given.KINDS`.
        seed: of what is held out.
        classes: the names of the network's, where they are known.
        name: that of the argument, for messages.

    Raises:
        UsageError: there are none, or they are of other classes.
    """
    part = _part_of(data)
    if part is not None and classes:
        part = part.for_network(classes)
    found = source(data, name=name) if part is None else part.load(seed=seed, train=False).test
    if isinstance(found, LoaderSource):
        found.count()
    if not found:
        raise UsageError(f"{name}: there are no test images in it to judge by.")
    return found


def to_learn_from(
    data: Any, validation: Any, batch_size: int | None, *, model: nn.Module
) -> tuple[Dataset, int]:
    """A dataset of what the caller holds, and the number of images of a batch.

    Args:
        data: of `given.KINDS`.
        validation: the same, or a share of ``data`` to hold out, or None.
        batch_size: as asked for; None for the loader's own, or 128.
        model: takes the images.

    Raises:
        UsageError: they are nothing to learn from, or the options contradict them.
    """
    share = validation if isinstance(validation, int | float) else None
    part = _part_of(data)
    if part is not None and validation is None:
        return part, batch_size or 128
    if part is not None and share is not None:
        options = part.model_dump(exclude={"name"}) | {"validation": share}
        return build(type(part), options), batch_size or 128
    learned = part.load(seed=0, test=False).train if part else source(data, name="data")
    assert learned is not None
    if isinstance(learned, LoaderSource):
        if batch_size not in (None, learned.batch_size):
            raise UsageError(
                f"batch_size: the loader's batches have {learned.batch_size} images, and "
                f"{batch_size} were asked for. Leave batch_size out, or make another loader."
            )
        if share:
            raise UsageError(
                "validation: a loader is used as it is. Split its dataset, and name the images to "
                "validate on: validation=another_loader."
            )
        batch_size = learned.batch_size
    classes = check_fits(model, learned, name="data")
    images, _ = next(learned.ordered(1, limit=1))
    held = None
    if validation is not None and share is None:
        held = to_judge(validation, seed=0, name="validation")
        check_fits(model, held, name="validation")
    splits = Splits(learned, held, None, classes, images.shape[1], images.shape[2])
    return Given.of(splits, validation=share or 0.0), batch_size or 128


def _part_of(data: Any) -> Dataset | None:
    """The dataset of ours that is meant, if one is."""
    if isinstance(data, str):
        data = {"name": data}
    if isinstance(data, Mapping):
        options = dict(data)
        data = datasets.create(options.pop("name", ""), **options)
    return data if isinstance(data, Dataset) else None


def compute_options(model: nn.Module, *, device: str | None, **options: Any) -> ComputeOptions:
    """Device and threads: those of the network and of torch, where nothing else is said.

    Raises:
        UsageError: the device is not there, or an option is wrong.
    """
    own = next((parameter.device.type for parameter in model.parameters()), "cpu")
    wanted = str(device or own).partition(":")[0]
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if wanted not in ("auto", *there):
        raise UsageError(f"device: {device} is not there. Choices: auto, {', '.join(there)}.")
    use = "cpu" if wanted == "cpu" else "auto"
    return build(ComputeOptions, {"device": use, "threads": torch.get_num_threads(), **options})


def document_of(part: Any) -> Mapping[str, Any]:
    """A part as a recipe writes it, from its name, such a document, or the part itself."""
    if isinstance(part, str):
        return {"name": part}
    return part.model_dump(mode="json") if isinstance(part, Part) else dict(part)


def load(
    data: Dataset, model: nn.Module, *, seed: int, test: bool, max_steps: int | None
) -> Splits:
    """The images of a dataset; where ``test`` asks for some to judge by, those, too.

    Raises:
        UsageError: they do not fit the network, or there is nothing to learn or to judge by.
    """
    found = data.load(seed=seed, test=test)
    if test and not found.test and found.validation is not None:
        found = replace(found, test=found.validation)
    if test and not found.test:
        raise UsageError("evaluate: by which images? Say validation=…, or call rp.evaluate.")
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps: {max_steps} leaves nothing to train. Use 1 or more.")
    if found.train is None or len(found.train) < 2:
        raise UsageError("data: two images at least are needed to learn from.")
    check_fits(model, found.train, name="data")
    return found
