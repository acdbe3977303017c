"""A few test images, untouched and attacked, and the classes that networks take them for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes

from robustprune.adapters import torchattacks
from robustprune.artifacts.reading import read_model
from robustprune.datasets import registry
from robustprune.errors import UsageError, first_line
from robustprune.radii import default_step
from robustprune.report.accuracy import ball
from robustprune.report.figures import Figure, Section, draw
from robustprune.report.groups import Group
from robustprune.seeding import fork
from robustprune.train_mode import eval_mode

_COUNT, _MOST_STEPS = 6, 20  # whoever waits for a run's end waits for these, too


def section(groups: Sequence[Group]) -> Section:
    """Draw the first test images of the first run, as they are and attacked."""
    found = Section("images", "Images, untouched and attacked")
    found.text.append(
        f"The first test images, not chosen. Each network is attacked anew by PGD, at most "
        f"{_MOST_STEPS} steps in the ball of the recipe's first attack, so it need not agree with "
        "the tables. Below each image is the class it is taken for, in red where that is wrong."
    )
    try:
        found.figures.append(_panel(groups[0]))
    except UsageError as error:
        found.missing.append(f"{groups[0].label}: {first_line(error).rstrip('.')}.")
    return found


def _panel(group: Group) -> Figure:
    run = group.runs[0]
    attack = next((e for e in group.evaluators if e.refutes is not None), None)
    if attack is None or attack.refutes is None:
        raise UsageError("the recipe has no attack among its evaluators")
    lowest = group.at(group.densities[-1]).values() if group.densities else []
    files = run.models
    networks = [name for name in ("dense", *lowest) if name in files]
    if not networks:
        raise UsageError("the model files are not there")
    options: dict[str, Any] = {k: v for k, v in run.results.params.data.items() if k != "extra"}
    name = str(options.pop("name", ""))
    fields = registry.get(name).model_fields  # never a dataset that the recipe's own code defines
    options |= {k: v for k, v in {"download": False, "workers": 0}.items() if k in fields}
    splits = registry.create(name, **options).load(seed=run.results.seed, train=False)
    assert splits.test is not None
    images, labels = next(splits.test.ordered(_COUNT, limit=_COUNT))
    kind, eps = "PGD" if attack.refutes.norm == "linf" else "PGDL2", attack.refutes.eps
    steps = min(getattr(attack, "steps", None) or _MOST_STEPS, _MOST_STEPS)
    pgd = {"eps": eps, "alpha": default_step(eps, steps), "steps": steps}
    rows = {"untouched": (images, labels)}
    for network in networks:
        model = read_model(files[network]).model
        with fork(0, "report", network), eval_mode(model.requires_grad_(False)):
            attacked = torchattacks.perturb(kind, model, images, labels, **pgd)
            with torch.no_grad():
                rows[network] = attacked, model(attacked).argmax(1)
    known = dict(enumerate(splits.class_names))
    classes = {row: [str(known.get(i, i)) for i in c.tolist()] for row, (_, c) in rows.items()}

    def paint(axes: Axes) -> None:
        for place, (row, (pixels, found)) in enumerate(rows.items()):
            for column, image in enumerate(pixels.clamp(0, 1).permute(0, 2, 3, 1).numpy()):
                box = (column + 0.125, column + 0.875, place + 0.75, place)
                axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=box)
                colour = "black" if found[column] == labels[column] else "#a13e00"
                look: Any = {"color": colour, "fontsize": 6, "ha": "center", "va": "top"}
                axes.text(column + 0.5, place + 0.77, classes[row][column][:9], **look)
        axes.set(xlim=(0, len(images)), ylim=(len(rows), 0), xticks=[])
        axes.set_yticks([place + 0.375 for place in range(len(rows))], list(rows))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    words = "; ".join(f"{row}: {', '.join(names)}" for row, names in classes.items())
    title = f"{group.label}: {kind}-{steps}, {ball(attack.refutes)}"
    return draw(f"images {group.label}", title, f"Classes of test images, {words}.", paint)
