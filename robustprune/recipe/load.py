"""From a file and overrides to a recipe, or to every problem in it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustprune.errors import InvalidError, Place, Problem, UsageError, nearest
from robustprune.parts import build
from robustprune.recipe.extending import read_extended
from robustprune.recipe.imports import import_files, run_imports
from robustprune.recipe.schema import Recipe, StageOptions
from robustprune.sentences import keys_of

_NEEDS = "Needs: init, fresh, dense, pretrain@<epochs>, mask:<label>."


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and what it extends, apply overrides, run its imports and validate all of it.

    Args:
        path: the file.
        overrides: ``key=value``, applied to the whole.

    Raises:
        UsageError: the file cannot be read, or an `InvalidError` that names every problem with
            its line and the nearest valid name.
    """
    path = Path(path)
    document = read_extended(path)
    for assignment in overrides:
        document.override(assignment)
    problems = run_imports(document.values.get("imports"), path.parent)
    try:
        recipe = build(Recipe, document.values)
        recipe._files = import_files(recipe.imports, path.parent)
        problems += inconsistencies(recipe)
    except InvalidError as error:
        problems += error.problems
    if document.problems or problems:
        raise InvalidError([*document.problems, *document.located(problems)])
    return recipe


def inconsistencies(recipe: Recipe) -> list[Problem]:
    """What is wrong although each value is right by itself."""
    problems: list[Problem] = []
    sections = recipe.stages
    for name, options in sections.items():
        problems += _of_stage(recipe, (name,), options)
    pruners: list[Any] = [] if recipe.prune is None else list(recipe.prune.methods)
    for index, pruner in enumerate(pruners):
        problems += _of_pruner(recipe, ("prune", "methods", index), pruner, sections)
    needs = {need for pruner in pruners for need in pruner.needs()} if pruners else {"dense"}
    trains = recipe.pretrain is not None or recipe.model.weights is not None
    if "dense" in needs and not trains:
        message = (
            "this key is required. Trains the dense network. Keys: "
            f"{', '.join(keys_of(StageOptions))}. Or name a trained network's file: model.weights."
        )
        problems.append(Problem(("pretrain",), message))
    labels = "give it a 'label' of its own, or drop it."
    if recipe.prune is not None:
        variants = [pruner.variant for pruner in pruners]
        problems += _twice(("prune", "methods"), variants, labels)
        densities = [f"{density:g}" for density in recipe.prune.densities]
        problems += _twice(("prune", "densities"), densities, "drop it.")
    metrics = [getattr(evaluator, "metric", "") for evaluator in recipe.evaluate]
    return problems + _twice(("evaluate",), metrics, labels)


def _of_stage(recipe: Recipe, place: Place, options: StageOptions) -> Iterator[Problem]:
    """What a stage's options ask for that the recipe cannot give."""
    objective = options.objective or recipe.objective
    if options.select == "best" and not getattr(recipe.data, "validation", 0):
        message = "needs a validation split: set data.validation, e.g. 0.04, or select: last."
        yield Problem((*place, "select"), message)
    if options.accumulate > 1 and getattr(objective, "repeats", 1) > 1:
        message = f"objective '{objective.registered_name}' repeats batches: use 1."
        yield Problem((*place, "accumulate"), message)


def _of_pruner(
    recipe: Recipe, place: Place, pruner: Any, sections: Mapping[str, StageOptions]
) -> Iterator[Problem]:
    """What a pruner needs that the recipe does not have, and what its own stages ask for."""
    assert recipe.prune is not None
    pruners: list[Any] = list(recipe.prune.methods)
    try:
        stages = pruner.stages(recipe.prune.densities[0], sections)
    except UsageError as error:
        yield Problem(place, str(error))
        return
    called = f"pruner '{pruner.variant}'"
    names = [stage.name for stage in stages]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield Problem(place, f"{called} has {names.count(name)} stages '{name}'.")
    trained: list[Any] = [stage.options for stage in stages if stage.options is not None]
    checked = [section.model_copy(update={"epochs": 1}) for section in sections.values()]
    for options in trained:
        if options.model_copy(update={"epochs": 1}) not in checked:
            yield from _of_stage(recipe, place, options)
    for stage in stages:
        if stage.options is not None and not 0 <= stage.start < stage.options.epochs:
            message = f"starts at epoch {stage.start} of {stage.options.epochs}: nothing is left."
            yield Problem(place, f"stage '{stage.name}' of {called} {message}")
    if pruner.sharpness is not None:
        minimised: list[Any] = [options.objective or recipe.objective for options in trained]
        reasons = (objective.one_pass for objective in minimised)
        for reason in filter(None, dict.fromkeys(reasons)):
            yield Problem((*place, "sharpness"), f"{reason}.")
    for problem in pruner.structure.problems(recipe.prune.densities, pruner.allocation):
        yield Problem((*place, "structure"), problem)
    yield from _of_needs(recipe, place, pruner, pruners)


def _of_needs(
    recipe: Recipe, place: Place, pruner: Any, pruners: Sequence[Any]
) -> Iterator[Problem]:
    """What `Pruner.needs` names that there is not."""
    called, needs = f"pruner '{pruner.variant}'", pruner.needs()
    epochs = 0 if recipe.pretrain is None else recipe.pretrain.epochs
    if not needs or needs[0].startswith("mask:"):
        yield Problem(place, f"{called} must say first which network it starts from. {_NEEDS}")
    for need in needs:
        kind, _, which = need.partition("@" if "@" in need else ":")
        if need in ("init", "fresh", "dense"):
            continue
        if kind == "pretrain" and which.isdecimal():
            if not 0 < int(which) <= epochs:
                found = f"of pretraining, which has {epochs}."
                yield Problem(place, f"{called} needs the network after epoch {which} {found}")
        elif kind == "mask":
            if which not in (other.variant for other in pruners):
                choices = nearest(which, (other.variant for other in pruners))
                yield Problem(place, f"there is no pruner '{which}' whose mask it needs.{choices}")
        else:
            yield Problem(place, f"{called} needs '{need}', which means nothing. {_NEEDS}")
    if pruner.variant in _behind(pruner, pruners):
        yield Problem(place, f"{called} needs a mask that needs its own.")


def _behind(pruner: Any, pruners: Sequence[Any]) -> set[str]:
    """The pruners whose masks it needs, and those that they need."""
    by_label = {other.variant: other for other in pruners}
    found: set[str] = set()
    waiting = [pruner]
    while waiting:
        for need in waiting.pop().needs():
            label = need.removeprefix("mask:")
            if label != need and label in by_label and label not in found:
                found.add(label)
                waiting.append(by_label[label])
    return found


def _twice(place: Place, names: Sequence[str], remedy: str) -> list[Problem]:
    return [
        Problem((*place, index), f"'{name}' stands {names.count(name)} times; {remedy}")
        for index, name in enumerate(names)
        if name in names[:index]
    ]
