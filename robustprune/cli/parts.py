"""Parts of the user's own: held against their families' contracts, promise by promise."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustprune.components import Part
from robustprune.datasets import Dataset
from robustprune.errors import ContractError, InvalidError, UsageError
from robustprune.families import FAMILIES, family
from robustprune.recipe.imports import (
    blamed,
    import_files,
    imported_as,
    passed_through,
    run_imports,
)
from robustprune.testing import CONTRACTS
from robustprune.testing.contract import BrokenPromiseError, Contract, Finding, said
from robustprune.tracking import Console
from robustprune.training.optimizers import OptimizerPart


def check_parts(files: list[Path], console: Console) -> None:
    """Print what holds and what not of every part that the files register.

    Raises:
        UsageError: a file cannot be imported, registers nothing, or a promise is broken.
    """
    parts = [part for file in files for part in _registered(file)]
    held = broken = 0
    for kind, part in parts:
        file = inspect.getsourcefile(part)
        console.info(f"{kind} '{part.registered_name}' ({file}:{_line(part)})")
        known: set[str] = set()
        for promise, error in _findings(part, console):
            held, broken = held + (error is None), broken + (error is not None)
            told = "" if error is None else _told(part, error)
            same = " (the same)" if told and told in known else ""
            console.info(f"  {'BROKEN' if told else 'holds '}  {promise}{same}")
            if told and not same:
                console.info("\n".join(f"          {line}" for line in told.splitlines()))
            known.add(told)
    if broken:
        raise UsageError(
            f"{broken} of {held + broken} promises are broken, see above. Mend the file, and check "
            "it again."
        )
    console.info(f"all {held} promises hold" if held else "nothing was checked")


def _registered(file: Path) -> list[tuple[str, type[Part]]]:
    """The parts that a file registers, each with what it is."""
    if problems := run_imports([str(file)], Path()):
        raise InvalidError(problems)
    module = imported_as(str(file), import_files([str(file)], Path()).get(str(file)))
    found = [
        (name.removesuffix("s"), family(name).get(part))
        for name in FAMILIES
        for part in family(name).registered_by(module)
    ]
    if not found:
        raise UsageError(
            f"{file} registers no part. Write @rp.objectives.register('a_name') above a class, or "
            f"another family: {', '.join(FAMILIES)}. A backbone, which timm registers, is tried "
            "out by `robustprune check RECIPE`."
        )
    return found


def _contract(part: type[Part]) -> Contract:
    return next((c for base, c in CONTRACTS.items() if issubclass(part, base)), Contract())


def _findings(part: type[Part], console: Console) -> Iterator[Finding]:
    """Its promises; none where its family has no contract, or options must be given."""
    try:
        # the learning rate is every recipe's own
        made = part(lr=0.1) if issubclass(part, OptimizerPart) else part()
    except (ContractError, TypeError) as error:
        yield Finding("it can be made", error)
        return
    except ValueError:  # pydantic's
        needed = [name for name, option in part.model_fields.items() if option.is_required()]
        if not needed:
            raise
        console.warn(
            f"'{part.registered_name}' is not checked: its options {', '.join(needed)} have no "
            "default. Give them one, or write a test that calls robustprune.testing."
        )
        return
    if isinstance(made, Dataset):
        try:
            made.load(seed=0)
        except UsageError as error:
            text = "Or write a test that calls robustprune.testing.check_dataset."
            console.warn(f"'{part.registered_name}' is not checked: {error}\n{text}")
            return
    yield Finding("it is made by its default options", None)
    yield from _contract(part).findings(made)


def _told(part: type[Part], error: Exception) -> str:
    """The line of the user's file that is at fault, and what was seen."""
    if not isinstance(error, BrokenPromiseError):
        if text := blamed(error):
            return text
        if place := passed_through(error):
            return f"{place}: {said(error)}"
    defined = [vars(part)[name] for name in _contract(part).methods if name in vars(part)]
    return f"{inspect.getsourcefile(part)}:{_line([*defined, part][0])}: {said(error)}"


def _line(thing: Any) -> int:
    return inspect.getsourcelines(getattr(thing, "fget", None) or thing)[1]
