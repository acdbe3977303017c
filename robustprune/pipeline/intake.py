"""Doubts about networks from elsewhere that guess: their normalisation and their order of classes.

The usual normalisations are tried in place of the network's own, and for the order of its outputs
the best permutation is found on half of the images and tested on the other half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]
from scipy.special import bdtrc  # the binomial tail above k
from torch import Tensor, nn

from robustprune.datasets.source import Source
from robustprune.models.factory import Normalized, normalisation
from robustprune.seeding import fork
from robustprune.train_mode import eval_mode

USUAL = {
    "none": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "ImageNet's": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "CIFAR-10's": ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    "pixels from -1 to 1": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "pixels from 0 to 255": ([0.0, 0.0, 0.0], [1 / 255, 1 / 255, 1 / 255]),
}
"""Mean and deviation of each channel; of other than three channels, their average."""

_IMAGES, _BATCH = 150, 50
_FEWEST = 30  # images that say anything
_BETTER = 0.1  # share by which another order of classes must be better than another normalisation
_GUESSING = 0.01  # chance that a network that guesses is taken for one that knows
_ALPHA = 1e-3  # chance that an explanation is one by luck


class Trial(NamedTuple):
    """The answers of a network behind one normalisation."""

    label: str
    mean: list[float]
    std: list[float]
    answers: Tensor
    """``(n,)``, int64."""


def doubt(
    model: nn.Module, test: Source | None, architecture: Mapping[str, Any], *, device: torch.device
) -> str:
    """Say that a network guesses, and what would change that; empty if it does not guess.

    Args:
        model: takes images in [0, 1].
        test: images of classes that the network should know.
        architecture: the arguments of `create_model`; anything for a network of another origin.
        device: the network's.
    """
    if test is None or len(test) < _FEWEST:
        return ""
    n = min(_IMAGES, len(test))
    few = test.select(torch.linspace(0, len(test) - 1, n).long(), augment=False)
    batches = [(images.to(device), labels) for images, labels in few.ordered(_BATCH)]
    labels = torch.cat([labels for _, labels in batches])
    chance = float(labels.bincount().max()) / n  # of the best constant answer
    inside = isinstance(model, Normalized)
    backbone = model.backbone if isinstance(model, Normalized) else model
    name = str(architecture.get("name", ""))
    channels = batches[0][0].shape[1]
    own = normalisation(**architecture) if inside else _spread(USUAL["none"], channels)

    def trial(label: str, mean: list[float], std: list[float]) -> Trial:
        shift, scale = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (mean, std))
        with eval_mode(backbone), torch.no_grad(), fork(0, name, "intake"):
            found = [backbone((images - shift) / scale).argmax(1).cpu() for images, _ in batches]
        return Trial(label, mean, std, torch.cat(found))

    trials = [trial("its own", *own)]
    right = int((trials[0].answers == labels).sum())
    if chance == 1 or not guesses(right, n, chance, alpha=_GUESSING):
        order, agreed, of = best_order(trials[0].answers, labels)
        other = not guesses(agreed, of, max(chance, right / n))
        return f"its classes stand in another order: {_order(order, agreed / of)}" if other else ""
    usual = {label: _spread(statistics, channels) for label, statistics in USUAL.items()}
    trials += [trial(label, *found) for label, found in usual.items() if found != own]
    told = (
        f"the network guesses: {right} of {n} clean images are classified rightly, and the same "
        f"answer to all would be right for {round(chance * n)}."
    )
    return f"{told} {_explained(trials, labels, chance, name)}"


def guesses(right: int, n: int, chance: float, *, alpha: float = _ALPHA) -> bool:
    """True if so many right answers or more come about by chance, exactly, oftener than alpha."""
    return bool(bdtrc(right - 1, n, chance) > alpha)


def best_order(answers: Tensor, labels: Tensor) -> tuple[list[int], int, int]:
    """The output that stands for each class, found on every other image.

    Returns:
        The output of each class; how many of the other images it makes right, and their number.
    """
    classes = int(max(answers.max(), labels.max())) + 1
    seen = torch.zeros(classes, classes)
    one = torch.ones(len(labels[::2]))
    seen.index_put_((labels[::2], answers[::2]), one, accumulate=True)
    order = torch.from_numpy(linear_sum_assignment(seen.numpy(), maximize=True)[1])
    right = order[labels[1::2]] == answers[1::2]
    return order.tolist(), int(right.sum()), len(right)


def _explained(trials: list[Trial], labels: Tensor, chance: float, name: str) -> str:
    """The normalisation, or the order of the classes, with which the network does not guess."""
    n, alpha = len(labels), _ALPHA / (2 * len(trials))
    right = {trial.label: int((trial.answers == labels).sum()) for trial in trials}
    shares = ", ".join(f"{label} {count / n:.1%}" for label, count in right.items())
    told = f"By normalisation: {shares}."
    found = {trial.label: best_order(trial.answers, labels) for trial in trials}
    straight = max(trials, key=lambda trial: right[trial.label])
    best = max(trials, key=lambda trial: found[trial.label][1])
    order, agreed, of = found[best.label]
    ordered = not guesses(agreed, of, chance, alpha=alpha)
    share = right[straight.label] / n
    if not guesses(right[straight.label], n, chance, alpha=alpha):
        if not ordered or agreed / of < share + _BETTER:
            return f"{told} {_statistics(straight, name)}"
    elif not ordered:
        return (
            f"{told} None of them helps, and no other order of its classes does. Has it learnt "
            "these classes, and were its weights read under the right architecture?"
        )
    and_so = "" if best is trials[0] else f" {_statistics(best, name)}"
    return f"{told} Its classes stand in another order: {_order(order, agreed / of)}{and_so}"


def _order(order: list[int], share: float) -> str:
    moved = [f"{label}: {output}" for label, output in enumerate(order) if label != output]
    more = f", and {len(moved) - 20} more" if len(moved) > 20 else ""
    shown = f"weight[{order}]" if len(order) <= 20 else "its weight and bias"
    return (
        f"with these outputs for labels, {{{', '.join(moved[:20])}{more}}}, it is right on "
        f"{share:.1%} of images that this was not found on. Reorder the rows of its last layer, "
        f"{shown}; of an imagefolder, naming its classes in the order of its outputs does it, too "
        "(--classes, data.classes)."
    )


def _statistics(trial: Trial, name: str) -> str:
    mean, std = (
        f"[{', '.join(f'{value:.6g}' for value in values)}]" for values in (trial.mean, trial.std)
    )
    return (
        f"It seems to have learnt from images normalised so ({trial.label}): model.mean: {mean}, "
        f"model.std: {std}; on the command line --arch '{{name: {name}, mean: {mean}, "
        f"std: {std}}}'."
    )


def _spread(
    statistics: tuple[list[float], list[float]], channels: int
) -> tuple[list[float], list[float]]:
    mean, std = (
        values if len(values) == channels else [sum(values) / len(values)] * channels
        for values in statistics
    )
    return mean, std
