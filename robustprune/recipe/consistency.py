"""Faults of a recipe whose values are all right by themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from robustprune.errors import Place, Problem, UsageError, nearest
from robustprune.recipe.schema import Recipe, StageOptions

_NEEDS = "Needs: init, fresh, dense, pretrain@<epochs>, mask:<label>."


def inconsistencies(recipe: Recipe, *, given: Collection[str] = ()) -> list[Problem]:
    """List what does not go together; ``given`` are needs of pruners that are met otherwise."""
    problems = [p for name, given in recipe.stages.items() for p in _stage(recipe, (name,), given)]
    trains_sparse = recipe.compute.sparse == "on"
    if trains_sparse and recipe.compute.precision != "fp32":
        message = f"on trains in fp32 only, and compute.precision is {recipe.compute.precision}"
        problems.append(Problem(("compute", "sparse"), f"{message}. Use auto, or fp32."))
    labels = "give it a 'label' of its own, or drop it."
    needs = {"dense"}
    if recipe.prune is not None:
        pruners: list[Any] = list(recipe.prune.methods)
        needs = recipe.needs()
        for index, pruner in enumerate(pruners):
            place = ("prune", "methods", index)
            problems += [*_pruner(recipe, place, pruner), *_needs(recipe, place, pruner, given)]
            if trains_sparse:
                problems += _sparse(recipe, place, pruner)
        problems += _repeated(("prune", "methods"), [one.variant for one in pruners], labels)
        densities = [f"{density:g}" for density in recipe.prune.densities]
        problems += _repeated(("prune", "densities"), densities, "drop it.")
    if "dense" in needs and recipe.pretrain is None and recipe.model.weights is None:
        keys = ", ".join(StageOptions.model_fields)
        message = f"this key is required. Trains the dense network. Keys: {keys}. Or name a trained"
        problems.append(Problem(("pretrain",), f"{message} network's file: model.weights."))
    metrics = [getattr(evaluator, "metric", "") for evaluator in recipe.evaluate]
    return problems + _repeated(("evaluate",), metrics, labels)


def _named(objective: Any) -> str:
    return f"objective '{objective.registered_name}'"


def _stage(recipe: Recipe, place: Place, options: StageOptions) -> Iterator[Problem]:
    """List what a stage's options ask for that the recipe cannot give."""
    objective = recipe.objective_of(options)
    if place == ("pretrain",) and objective.needs:
        message = f"{_named(objective)} needs the dense network, which this "
        yield Problem((*place, "objective"), f"{message}stage is to make: give it another one.")
    if options.select == "best" and not getattr(recipe.data, "validation", 0):
        message = "needs a validation split: set data.validation, e.g. 0.04, or select: last."
        yield Problem((*place, "select"), message)
    if options.accumulate > 1 and getattr(objective, "repeats", 1) > 1:
        message = f"{_named(objective)} repeats batches: use 1."
        yield Problem((*place, "accumulate"), message)


def _pruner(recipe: Recipe, place: Place, pruner: Any) -> Iterator[Problem]:
    """List what its own stages, its structure and ``sharpness`` ask for in vain."""
    assert recipe.prune is not None
    sections = recipe.stages
    try:
        stages, *_ = [pruner.stages(density, sections) for density in recipe.prune.densities]
    except UsageError as error:
        yield Problem(place, str(error))
        return
    called, names = f"pruner '{pruner.variant}'", [stage.name for stage in stages]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield Problem(place, f"{called} has {names.count(name)} stages '{name}'.")
    checked = [section.model_copy(update={"epochs": 1}) for section in sections.values()]
    trained = [stage for stage in stages if stage.options is not None]
    for stage in trained:
        if stage.options.model_copy(update={"epochs": 1}) not in checked:
            yield from _stage(recipe, place, stage.options)
        if not 0 <= stage.start < stage.options.epochs:
            message = f"starts at epoch {stage.start} of {stage.options.epochs}: nothing is left."
            yield Problem(place, f"stage '{stage.name}' of {called} {message}")
    found = [p for s in stages for p in pruner.problems(s, recipe.objective_of(s.options))]
    for objective in (recipe.objective_of(stage.options) for stage in stages):
        means_nothing = "which means nothing. What an objective may need: dense"
        odd = [need for need in objective.needs if need != "dense"]
        found += [f"{_named(objective)} needs '{need}', {means_nothing}" for need in odd]
    for problem in dict.fromkeys(found):
        yield Problem(place, f"{called}: {problem}.")
    if pruner.needs_validation and not getattr(recipe.data, "validation", 0):
        message = "goes by a validation split: set data.validation, e.g. 0.1."
        yield Problem(place, f"{called} {message}")
    for problem in pruner.structure.problems(recipe.prune.densities, pruner.allocation):
        yield Problem((*place, "structure"), problem)


def _sparse(recipe: Recipe, place: Place, pruner: Any) -> Iterator[Problem]:
    """List what keeps a pruner's stages from being trained through sparse kernels."""
    assert recipe.prune is not None
    try:
        stages = pruner.stages(recipe.prune.densities[0], recipe.stages)
    except UsageError:  # told already
        return
    trained = [stage for stage in stages if stage.options is not None]
    still = [stage for stage in trained if pruner.stands_still(stage.name)]
    called, remedy = f"pruner '{pruner.variant}'", "Use compute.sparse: auto, or drop it."
    if trained and not still:
        names = ", ".join(f"'{stage.name}'" for stage in trained)
        why = f"moves its masks in all that it trains ({names}), and sparse kernels need them fixed"
        yield Problem(place, f"{called} {why}. {remedy}")
    objectives = [recipe.objective_of(stage.options) for stage in still]
    for name in dict.fromkeys(one.registered_name for one in objectives if not one.calls_only):
        why = f"trains by objective '{name}', which needs the network itself, not a sparse one"
        yield Problem(place, f"{called} {why}. {remedy}")


def _needs(recipe: Recipe, place: Place, pruner: Any, given: Collection[str]) -> Iterator[Problem]:
    """List what `Pruner.needs` names that there is not."""
    assert recipe.prune is not None
    pruners: list[Any] = list(recipe.prune.methods)
    others = {other.variant: other for other in pruners}
    called, needs = f"pruner '{pruner.variant}'", pruner.needs()
    epochs = 0 if recipe.pretrain is None else recipe.pretrain.epochs
    if not needs or needs[0].startswith("mask:"):
        yield Problem(place, f"{called} must say first which network it starts from. {_NEEDS}")
    for need in (need for need in needs if need not in given):
        kind, _, which = need.partition("@" if "@" in need else ":")
        if kind == "pretrain" and which.isdecimal():
            if not 0 < int(which) <= epochs:
                found = f"of pretraining, which has {epochs}."
                yield Problem(place, f"{called} needs the network after epoch {which} {found}")
        elif kind == "mask":
            if which not in others:
                choices = nearest(which, others)
                yield Problem(place, f"there is no pruner '{which}' whose mask it needs.{choices}")
        elif need not in ("init", "fresh", "dense"):
            yield Problem(place, f"{called} needs '{need}', which means nothing. {_NEEDS}")
    try:
        masks = {f"mask:{label}": other.needs() for label, other in others.items()}
        TopologicalSorter(masks).prepare()
    except CycleError as error:
        if f"mask:{pruner.variant}" in error.args[1]:
            yield Problem(place, f"{called} needs a mask that needs its own.")


def _repeated(place: Place, names: Sequence[str], remedy: str) -> list[Problem]:
    return [
        Problem((*place, index), f"'{name}' stands {names.count(name)} times; {remedy}")
        for index, name in enumerate(names)
        if name in names[:index]
    ]
