"""``robustprune list``."""

from __future__ import annotations

from argparse import Namespace

from robustprune.cli.options import Option, options, summary
from robustprune.errors import UsageError, nearest
from robustprune.families import FAMILIES, family
from robustprune.parts import Part
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Print families, or the parts of one and their options."""
    console = Console()
    choices = [*FAMILIES, "models"]
    if arguments.family is None:
        for name in FAMILIES:
            console.info(f"{name}: {', '.join(family(name).names())}")
        console.info("models: `robustprune list models`")
    elif arguments.family == "models":
        _models(console, arguments.pattern)
    elif arguments.family in FAMILIES:
        registry = family(arguments.family)
        for name in _matching(arguments.family, registry.names(), arguments.pattern):
            _part(console, name, registry.get(name))
    else:
        hint = nearest(arguments.family, choices)
        raise UsageError(f"there is no family '{arguments.family}'.{hint}")


def _part(console: Console, name: str, part: type[Part]) -> None:
    console.info(f"{name}: {summary(part)}")
    _options(console, options(part), indent=4)


def _options(console: Console, described: list[Option], *, indent: int) -> None:
    """Each option on a line; those of a group below it, further in."""
    for option in described:
        default = f" = {option.default}" if option.default else ""
        default = ", required" if option.required else default
        console.info(f"{' ' * indent}{option.key} ({option.kind}){default}: {option.meaning}")
        _options(console, option.group, indent=indent + 4)


def _models(console: Console, pattern: str) -> None:
    from robustprune.models import model_names

    for name in _matching("models", model_names(), pattern):
        console.info(name)


def _matching(what: str, names: list[str], pattern: str) -> list[str]:
    found = [name for name in names if pattern in name]
    if not found:
        raise UsageError(
            f"none of the {what} has '{pattern}' in its name.{nearest(pattern, names)}"
        )
    return found
