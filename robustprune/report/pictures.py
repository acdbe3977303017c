"""Images, untouched and attacked, and what each network takes them for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustprune.adapters import torchattacks
from robustprune.artifacts.reading import read_model
from robustprune.datasets import registry
from robustprune.datasets.base import Dataset
from robustprune.errors import UsageError
from robustprune.modes import eval_mode
from robustprune.report.figures import Figure, compose
from robustprune.report.groups import Group
from robustprune.report.judges import ball, judges
from robustprune.report.runs import Run
from robustprune.report.sections import Section
from robustprune.seeding import fork
from robustprune.types import Images, Threat

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from torch import Tensor

_COUNT = 6  # images
_STEPS = 20
_RIGHT, _WRONG = "#00674b", "#a13e00"


class Row(NamedTuple):
    """What one network makes of the images.

    Attributes:
        network: its name.
        images: ``(n, channels, height, width)``, attacked, in [0, 1].
        clean: ``(n,)``, its classes for the untouched images.
        attacked: ``(n,)``, its classes for the attacked ones.
    """

    network: str
    images: Tensor
    clean: Tensor
    attacked: Tensor


def section(groups: Sequence[Group]) -> Section:
    """A grid for each recipe whose dataset and model files are there."""
    found = Section("images", "Images, untouched and attacked")
    found.text.append(
        f"The first {_COUNT} test images, not chosen. Each network is attacked by PGD with "
        f"{_STEPS} steps in the ball of the recipe's first attack; below each image is its class "
        "untouched → attacked, ✓ where the attack did not make it wrong. The attack is drawn anew "
        "for this page, so it need not agree with the table."
    )
    for group in groups:
        try:
            found.figures.append(_grid(group))
        except UsageError as error:
            found.missing.append(f"{group.label}: {str(error).splitlines()[0]}")
    return found


def _grid(group: Group) -> Figure:
    run = group.runs[0]
    threat = _threat(group)
    paths = dict(_models(group, run))
    if not paths:
        raise UsageError("the model files are not there.")
    data = _dataset(run)
    images, labels = _first(data, run.results.seed)
    rows = [_row(name, path, images, labels, threat) for name, path in paths.items()]
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    alt = _alt(rows, labels, names, threat)
    title = f"{group.label}: PGD, {ball(threat)}"
    size = (1.05 * len(images) + 1.15, 1.35 * (len(rows) + 1) + 0.3)

    def fill(canvas: Canvas) -> None:
        canvas.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")
        _paint(canvas, images, labels, rows, names)

    return compose(f"images {group.label}", title, alt, fill, size=size, wide=True)


def _threat(group: Group) -> Threat:
    for judge in judges(group):
        if judge.part.refutes is not None:
            return judge.part.refutes
    raise UsageError("the recipe has no attack among its evaluators.")


def _models(group: Group, run: Run) -> Iterator[tuple[str, Path]]:
    """The dense network, and each variant at the smallest density that it has."""
    smallest = {n.variant: n.name for n in sorted(group.networks, key=lambda n: -n.density)}
    for variant in ["dense", *group.variants]:
        name = smallest.get(variant)
        path = run.file(name, "model.safetensors") if name else None
        if name and path is not None:
            yield name, path


def _dataset(run: Run) -> Dataset:
    """The recipe's dataset; never one that the recipe's own code defines, and nothing fetched."""
    fields: dict[str, Any] = {k: v for k, v in run.results.params.data.items() if k != "extra"}
    name = str(fields.pop("name", ""))
    if "download" in registry.get(name).model_fields:
        fields["download"] = False
    return registry.create(name, **fields)


def _first(data: Dataset, seed: int) -> Images:
    try:
        test = data.load(seed=seed, train=False).test
    except UsageError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"the dataset's files are not here ({reason})") from None
    assert test is not None
    return next(iter(test.ordered(_COUNT, limit=_COUNT)))


def _row(network: str, path: Path, images: Tensor, labels: Tensor, threat: Threat) -> Row:
    import torch

    model = read_model(path).model.requires_grad_(False)
    attack = "PGD" if threat.norm == "linf" else "PGDL2"
    step = threat.eps / 4
    with fork(0, "report", network), eval_mode(model):
        try:
            attacked = torchattacks.perturb(
                attack, model, images, labels, eps=threat.eps, alpha=step, steps=_STEPS
            )
            with torch.no_grad():
                return Row(network, attacked, model(images).argmax(1), model(attacked).argmax(1))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"'{network}' does not take the dataset's images ({reason})") from None


def _paint(
    canvas: Canvas, images: Tensor, labels: Tensor, rows: Sequence[Row], names: Sequence[str]
) -> None:
    grid = canvas.subplots(len(rows) + 1, len(images), squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([], [])
        axes.set_yticks([], [])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for column, image in enumerate(images):
        _show(grid[0, column], image)
        grid[0, column].set_xlabel(_name(names, labels[column]))
    grid[0, 0].set_ylabel("untouched")
    for place, row in enumerate(rows, start=1):
        grid[place, 0].set_ylabel(row.network)
        for column, image in enumerate(row.images):
            _show(grid[place, column], image)
            right = bool(row.attacked[column] == labels[column])
            before, after = (_name(names, row.clean[column]), _name(names, row.attacked[column]))
            words = f"{before} → {after} {'✓' if right else '✗'}"
            grid[place, column].set_xlabel(words, color=_RIGHT if right else _WRONG, fontsize=8)


def _show(axes: Any, image: Tensor) -> None:
    pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
    grey = pixels.shape[2] == 1
    axes.imshow(
        pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )


def _name(names: Sequence[str], label: Tensor) -> str:
    """The class's name, short enough to stand below an image."""
    index = int(label)
    name = names[index] if index < len(names) else str(index)
    return name if len(name) <= 8 else f"{name[:7]}…"


def _alt(rows: Sequence[Row], labels: Tensor, names: Sequence[str], threat: Threat) -> str:
    truth = ", ".join(_name(names, label) for label in labels)
    found = "; ".join(
        f"{row.network} takes them for {', '.join(_name(names, c) for c in row.attacked)}"
        for row in rows
    )
    return f"{len(labels)} test images ({truth}), attacked in the {ball(threat)} ball: {found}."
