"""Trials of a study: what they tried and how they ended, for people and as a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustprune.files import write_text
from robustprune.recipe import load_recipe
from robustprune.recipe.document import EXTENDS, changes, dump, read_extended
from robustprune.recipe.packaged import reference

BEST = "best.yaml"
"""In a study's folder, the recipe with the best values."""


class FailedTrialsError(Exception):
    """Processes of some trials have died; a study that is gone on with does these again."""


@dataclass(frozen=True)
class Trial:
    """One attempt.

    Attributes:
        number: from 0; its run is in the study's ``trials/<number>/``.
        values: by key, as ``--set`` takes them.
        loss: on the validation split; infinite if it did not come to its end.
        end: ``finished``, or why there is no loss.
        stopped: true if it was behind others.
        curve: losses after its epochs, by the step that they were reported at.
    """

    number: int
    values: dict[str, str]
    loss: float = math.inf
    end: str = ""
    curve: Mapping[int, float] = field(default_factory=dict)
    stopped: bool = False

    @property
    def value(self) -> float | None:
        """What Optuna is told: nothing if it was stopped."""
        return None if self.stopped else self.loss

    @property
    def entry(self) -> dict[str, Any]:
        """The trial as one of a run's networks is tracked."""
        metrics = {"val_loss": self.loss} if math.isfinite(self.loss) else {}
        name = f"trial-{self.number:04}"
        return {"name": name, "values": self.values, "ended": self.end or None, "metrics": metrics}

    @property
    def shown(self) -> str:
        """The values as a line."""
        return "  ".join(f"{key}={value}" for key, value in self.values.items())


@dataclass(frozen=True)
class TuneResult:
    """The result of `tune`.

    Attributes:
        folder: the study's.
        trials: in their order.
        tracked: where MLflow has them, as a line for people.
    """

    folder: Path
    trials: list[Trial]
    tracked: str

    @property
    def best(self) -> Trial:
        """The trial of the lowest loss."""
        return min(self.trials, key=lambda trial: trial.loss)

    @property
    def recipe(self) -> Path:
        """The recipe with the best values."""
        return self.folder / BEST

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows for people."""
        rows = []
        for trial in self.trials:
            loss = f"{trial.loss:.4f}" if math.isfinite(trial.loss) else "–"
            end = f"{trial.end}, best" if trial is self.best else trial.end
            rows.append([str(trial.number), *trial.values.values(), loss, end])
        return ["trial", *self.trials[0].values, "val_loss", "state"], rows


def write_best(file: Path, best: Trial, *, of: int, recipe: Path, overrides: Sequence[str]) -> None:
    """Write the best trial's values as a recipe that extends the one they were tried on.

    Lists are there whole. What ``overrides`` have changed is there too: it was tuned with that.
    """
    values = [f"{key}={value}" for key, value in best.values.items()]
    document = read_extended(recipe)
    base = document.values
    for assignment in (*overrides, *values):
        document.override(assignment)
    own = changes(base, document.values)
    if own is None:  # a key was dropped, which no recipe that extends another one can say
        chosen = load_recipe(recipe, [*overrides, *values])
        files = {name: str(path.absolute()) for name, path in chosen.files.items()}
        own = chosen.document()
        own["imports"] = [files.get(name, name) for name in chosen.imports]
    else:
        own = {EXTENDS: reference(recipe, file.parent), **own}
    lines = [
        f"The best of {of} trials by `robustprune tune {recipe}`:",
        f"trial {best.number}, loss {best.loss:.6g} on the validation split.",
        *(f"  tuned: {value}" for value in values),
        *(f"  by --set, for all trials: {override}" for override in overrides),
    ]
    comment = "".join(f"# {line}\n" for line in "\n".join(lines).splitlines())
    write_text(file, comment + dump(own))
