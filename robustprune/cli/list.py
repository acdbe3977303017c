"""List what recipes can name.

Without a family: every family. With one: every part and its options.

  robustprune list
  robustprune list objectives
  robustprune list objectives --recipe my.yaml     with the parts that its imports: register
  robustprune list models resnet                   backbones, ours and timm's, that match
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from robustprune.cli.arguments import add_imports
from robustprune.errors import UsageError, nearest
from robustprune.families import FAMILIES, family


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("family", nargs="?", help="e.g. objectives, pruners, evaluators, models")
    parser.add_argument("pattern", nargs="?", default="", help="only names that contain this")
    add_imports(parser)


def command(arguments: Namespace) -> None:
    """Print families, or the parts of one and their options."""
    from robustprune.cli.options import described
    from robustprune.tracking import Console

    console = Console()
    if arguments.family is None:
        for name in FAMILIES:
            console.info(f"{name}: {', '.join(family(name).names())}")
        console.info("models: `robustprune list models`")
        return
    if arguments.family == "models":
        from robustprune.models import model_names  # timm comes with them

        parts = {name: name for name in model_names()}
    elif arguments.family in FAMILIES:
        registry = family(arguments.family)
        parts = {name: described(name, registry.get(name)) for name in registry.names()}
    else:
        homes = [name for name in FAMILIES if arguments.family in family(name).names()]
        hint = nearest(arguments.family, [*FAMILIES, "models"])
        if homes:
            lines = " or ".join(f"`robustprune list {home} {arguments.family}`" for home in homes)
            hint = f" It is one of the {' and '.join(homes)}: {lines}."
        raise UsageError(f"there is no family '{arguments.family}'.{hint}")
    matching = [text for name, text in parts.items() if arguments.pattern in name]
    if not matching:
        hint = nearest(arguments.pattern, parts)
        raise UsageError(
            f"none of the {arguments.family} has '{arguments.pattern}' in its name.{hint}"
        )
    for text in matching:
        console.info(text)
