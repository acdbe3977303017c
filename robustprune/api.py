"""Python without recipes: prune, judge, certify, save and export a network of one's own.

Each function does what a command does to files, with the same parts, to what the caller holds.
Images are in [0, 1] everywhere: a network that takes normalised ones is put behind its ``mean`` and
``std``, so that an attack's radius is one of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustprune.artifacts import backends
from robustprune.artifacts.backends.base import example_images
from robustprune.artifacts.card import write_card
from robustprune.artifacts.saved import save_model as write_model
from robustprune.errors import UsageError
from robustprune.pipeline import own, pruning
from robustprune.pipeline.described import described, is_ours, no_file, rebuilt
from robustprune.pipeline.evaluate import evaluators_of
from robustprune.pipeline.initial_network import classes_of
from robustprune.pipeline.judged import Evaluated, judge
from robustprune.pipeline.pruning import Pruned
from robustprune.tracking import Console

__all__ = ["Evaluated", "Pruned", "certify", "evaluate", "export", "prune", "save_model"]

Named = str | Mapping[str, Any] | Any
"""A part of a registry: by name, as a recipe writes it (``{"name": …, option: …}``), or made."""
Statistics = Sequence[float] | None


def prune(
    model: nn.Module,
    method: Named,
    data: Any,
    objective: Named,
    density: float,
    *,
    epochs: int = 10,
    lr: float | None = None,
    optimizer: Named | None = None,
    finetune: int | Mapping[str, Any] | None = None,
    validation: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    mean: Statistics = None,
    std: Statistics = None,
    checkpoints: Mapping[str, Any] | None = None,
    evaluate: Sequence[Named] = (),
    inplace: bool = False,
    device: str | None = None,
    precision: str = "fp32",
    max_steps: int | None = None,
    quiet: bool = False,
    **stage: Any,
) -> Pruned:
    """Prune a network by any registered method, through the loop that recipes are trained by.

    Equal arguments give equal networks, to the bit, on the same machine.

    Args:
        model: any network with Conv2d or Linear layers: images ``(n, channels, height, width)`` to
            logits ``(n, classes)``. It stays as it is.
        method: a pruner: ``"hydra"``, ``{"name": "rigl", "every": {"steps": 100}}`` or a part.
        data: images to learn from: a DataLoader, whose own batches, order, transforms and workers
            are used; a dataset of (image, label) pairs or a pair of tensors, which are shuffled by
            the seed; or one of `rp.datasets`, augmented as recipes do.
        objective: minimised over scores and over weights: ``"trades"``, or as ``method``.
        density: share of the prunable weights to keep, in (0, 1].
        epochs: of each stage but finetuning.
        lr: learning rate of these stages. Scores take larger ones than weights do.
        optimizer: of these stages; SGD with momentum if not said.
        finetune: epochs of the stage that trains what is kept, which is all that one-shot methods
            train: as many as ``epochs`` if not said, 0 for none; or its options,
            ``{"epochs": 20, "optimizer": {"name": "sgd", "lr": 0.01}}``, whose optimizer is that
            one if none is named.
        validation: images to choose by, as ``data``; or a share of ``data`` that is held out.
        batch_size: 128 if not said; a loader has its own.
        seed: all that is drawn follows from it, but for what a loader's own ``generator`` gives.
        mean: of each channel of the images that ``model`` was trained with; ``data`` is in [0, 1].
        std: the deviation, in the same way.
        checkpoints: what a method needs beside this network, by `Pruner.needs`: state dicts,
            ``{"init": …}``, or masks, ``{"mask:hydra": …}``.
        evaluate: evaluators of the result: by a dataset's test images, or by those of
            ``validation``.
        inplace: write the outcome into ``model``, too.
        device: ``cpu``, ``cuda`` or ``auto``; where the network is if not said.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        max_steps: cut each stage after so many optimizer steps, to try it out.
        quiet: show no progress.
        stage: more options of these stages, as recipes have them: ``schedule``, ``accumulate``, ….

    Raises:
        UsageError: something does not fit; it is told before any training.
        DivergedError: the loss is NaN, infinite or exploding.
    """
    mean, std = own.numbers(mean), own.numbers(std)
    shown = own.normalised(own.trainable(model), mean, std)
    part, batch = own.to_learn_from(data, validation, batch_size, model=shown)
    options = {"epochs": epochs, "batch_size": batch, **stage}
    options |= pruning.optimizer_of(optimizer, lr)
    sections = {
        "seed": seed,
        "data": part,
        "objective": objective,
        "pretrain": options,
        "prune": {"methods": [method], "densities": [density], **options},
        "finetune": pruning.finetuning(finetune, epochs=epochs, batch_size=batch),
        "evaluate": [own.document_of(one) for one in evaluate],
        "compute": own.compute_options(model, device=device, precision=precision),
    }
    wrapped = not (mean is None and std is None)
    recipe = pruning.recipe_of(sections, model=model, wrapped=wrapped)
    splits = own.load(part, shown, seed=recipe.seed, test=bool(evaluate), max_steps=max_steps)
    how: Any = {"checkpoints": checkpoints or {}, "max_steps": max_steps}
    found = pruning.prune_given(shown, recipe, splits, console=Console(quiet=quiet), **how)
    found = pruning.as_given(found, model, wrapped=wrapped)
    if wrapped:
        found.about.update(mean=mean, std=std)
    if inplace:
        model.load_state_dict(found.model.state_dict())
    if not evaluate:
        return found
    judges: Any = recipe.evaluate
    assert splits.test is not None
    judged = judge(own.network_of(found), splits.test, judges, device, quiet)
    split = "validation" if splits.test is splits.validation else "test"
    measured: dict[str, Any] = {"metrics": dict(judged), "split": split}
    measured |= {"alarms": judged.alarms} if judged.alarms else {}
    measured["judged"] = own.fingerprint(found.model)
    return replace(found, metrics=judged, about={**found.about, **measured})


def evaluate(
    model: Any,
    data: Any,
    evaluators: Named | Sequence[Named] = ("clean", "pgd"),
    *,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    device: str | None = None,
    sparse: str = "auto",
    quiet: bool = False,
) -> Evaluated:
    """Judge a network image by image.

    Args:
        model: a network, what `prune` gave, or a file. It stays as it is.
        data: images to judge by, as for `prune`; of one of `rp.datasets` its test images. A
            loader's stand in its dataset's order.
        evaluators: by name, as a recipe writes them, or made; see `rp.evaluators`.
        samples: only the first so many images.
        batch_size: images at once; as the evaluators say if not said.
        seed: of attacks; that of pruning, or 0.
        mean: as for `prune`.
        std: as for `prune`.
        device: as for `prune`.
        sparse: sparse kernels on CPUs: ``auto``, ``on`` or ``off``.
        quiet: show no progress.

    Raises:
        UsageError: an evaluator, the images or the network does not fit.
    """
    saved = own.network_of(model, mean, std)
    single = isinstance(evaluators, str | Mapping) or hasattr(evaluators, "judge")
    documents = [own.document_of(one) for one in ([evaluators] if single else evaluators)]
    parts = evaluators_of(documents, samples=samples, batch_size=batch_size)
    if seed is not None:
        saved.metadata["seed"] = seed
    about = saved.metadata
    images = own.to_judge(data, seed=int(about.get("seed", 0)), classes=classes_of(about))
    return judge(saved, images, parts, device, quiet, sparse=sparse)


def certify(
    model: Any,
    data: Any,
    *,
    eps: float | str | None = None,
    bounds: str = "verified",
    sigma: float | None = None,
    radius: float | None = None,
    n: int | None = None,
    **options: Any,
) -> Evaluated:
    """Count the images for which no change within a radius can fool a network.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        eps: ℓ∞ radius of pixels within which bounds on the logits are computed: what they verify
            holds for the network itself.
        bounds: the evaluator of ``eps``: ``ibp``, ``crown``, …; ``verified`` tries the cheap first.
        sigma: deviation of the noise of randomised smoothing, with which the network was trained:
            what it certifies holds for the smoothed network, by chance up to 0.001 of an error.
        radius: ℓ2 radius at which an image counts under smoothing; 110/255 if not said.
        n: noisy copies of an image; 10,000 if not said.
        options: as for `evaluate`: ``samples``, ``mean``, ``device``, ….

    Raises:
        UsageError: neither ``eps`` nor ``sigma`` is there, or a bound does not know the network.
    """
    documents: list[dict[str, Any]] = []
    if eps is not None:
        documents.append({"name": bounds, "eps": eps})
        if evaluators_of(documents, samples=None, batch_size=None)[0].claims is None:
            raise UsageError(f"bounds: '{bounds}' proves nothing. Judge by it with rp.evaluate.")
    if sigma is not None:
        given = {"sigma": sigma, "radius": radius, "n": n}
        chosen = {key: value for key, value in given.items() if value is not None}
        documents.append({"name": "smoothing", **chosen})
    elif not (radius is None and n is None):
        raise UsageError("radius, n: they are of smoothing, which needs sigma, too.")
    if not documents:
        raise UsageError(
            "certify: within what? eps=2/255 verifies by bounds, sigma=0.25 by smoothing."
        )
    return evaluate(model, data, documents, **options)


def save_model(
    model: Any,
    path: str | Path,
    *,
    architecture: str | Mapping[str, Any] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    classes: Sequence[str] | None = None,
    mean: Statistics = None,
    std: Statistics = None,
) -> None:
    """Write a file that `load_model` and every command take.

    It names an architecture of `create_model` and holds tensors; nothing in it is executed. So it
    cannot hold a class of one's own, unless that is registered with timm where the file is read.

    Args:
        model: what `prune` gave, or a network; of `create_model`, or equal to one of its.
        path: ends in ``.safetensors``.
        architecture: the name or the arguments of `create_model`'s, where it was not made by that.
        masks: boolean, by the weight's name; those of pruning if not said.
        classes: the classes' names, in the order of the logits.
        mean: as for `prune`.
        std: as for `prune`.

    Raises:
        UsageError: the network is not what the file would say.
    """
    if Path(path).suffix != ".safetensors":
        raise UsageError(f"path: {path} must end in .safetensors. For other formats: rp.export.")
    saved = described(own.network_of(model, mean, std, masks), architecture, classes)
    if not is_ours(saved):
        raise UsageError(no_file(saved.model))
    rebuilt(saved.model, saved.metadata["model"], example_images(saved, 2))
    write_model(Path(path), saved.model, masks=saved.masks, metadata=saved.metadata)


def export(
    model: Any,
    path: str | Path,
    format: str | None = None,
    *,
    images: Tensor | None = None,
    architecture: str | Mapping[str, Any] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    classes: Sequence[str] | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    **options: Any,
) -> list[str]:
    """Write a network in a format for others, and a model card beside it, as the command does.

    Args:
        model: as for `save_model`; any network at all as ``onnx`` and ``sparse``.
        path: the file; its ending says the format where it is that of one only.
        format: see `rp.backends`.
        images: a batch of images, for the size of those that a network of one's own takes.
        architecture: as for `save_model`.
        masks: as for `save_model`.
        classes: as for `save_model`.
        mean: as for `prune`.
        std: as for `prune`.
        options: of the format.

    Returns:
        Notes on the file: what was compared, and what it takes.

    Raises:
        UsageError: the network cannot be written so, or the file gives other logits.
    """
    backend = backends.create(format or backends.named_by(Path(path)), **options)
    shown = own.network_of(model, mean, std, masks)
    saved = described(shown, architecture, classes, images=images)
    try:
        notes = backend.export(saved, Path(path))
    except UsageError as error:
        if is_ours(saved) or "unknown model" not in str(error):
            raise
        raise UsageError(no_file(saved.model)) from None
    write_card(saved, Path(path), backend, notes)
    return notes
