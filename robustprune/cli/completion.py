"""Print a script by which a shell completes commands, options, names and files.

  robustprune completion bash       in ~/.bashrc:  eval "$(robustprune completion bash)"
  robustprune completion zsh        in ~/.zshrc, after compinit: the same with zsh
  robustprune completion tcsh       in ~/.tcshrc:  source a file that this was written to
  robustprune completion bash > ~/.local/share/bash-completion/completions/robustprune

The last line is read when it is first needed, and makes no shell wait. The script is static: it
knows the recipes and parts that were there when it was printed. Print it again after an update.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Iterator
from typing import Any

from robustprune.errors import MissingDependencyError
from robustprune.families import FAMILIES, family

_SHELLS = ("bash", "zsh", "tcsh", "fish")
_FAMILIES = {"evaluator": "evaluators", "format": "backends", "measures": "measures"}
_FAMILIES |= {"data": "datasets"}
"""Arguments that name parts, by their name in the parsed arguments."""
_FILES = ("FILE", "MODEL", "RUN", "model", "checkpoint")
_OFFER = "_robustprune_recipe_files"
_RECIPES = {
    "bash": f"{_OFFER}() {{{{ compgen -W '{{}}' -- $1; compgen -f -- $1; }}}}",
    "zsh": f"{_OFFER}() {{{{ _alternative 'recipes:recipe:({{}})' 'files:file:_files'; }}}}",
}
"""Shell functions that offer the names of recipes, and files."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("shell", choices=_SHELLS, help="the shell: " + ", ".join(_SHELLS))


def command(arguments: Namespace) -> None:
    """Print the script."""
    from robustprune.cli.main import parser

    try:
        import shtab
    except ImportError:
        raise MissingDependencyError("completion needs shtab: pip install shtab.") from None
    top = parser()
    for action in _actions(top):
        _complete(action, shtab)
    print(shtab.complete(top, shell=arguments.shell))


def _actions(parser: ArgumentParser) -> Iterator[Any]:
    """Every argument of a parser, and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, _SubParsersAction):
            for one in dict.fromkeys(action.choices.values()):
                yield from _actions(one)


def _complete(action: Any, shtab: Any) -> None:
    """Say what an argument is completed by, where it has no choices of its own."""
    value = str(action.metavar or action.dest)
    if action.choices is not None or action.nargs == 0:
        return
    if value in ("RECIPE", "path"):
        action.complete = _recipes(shtab)
    elif value == "DIR":
        action.complete = shtab.DIRECTORY
    elif value in _FILES:
        action.complete = shtab.FILE
    elif action.dest in _FAMILIES:
        action.choices = family(_FAMILIES[action.dest]).names()
    elif action.dest == "family":
        action.choices = [*FAMILIES, "models"]


def _recipes(shtab: Any) -> dict[str, Any]:
    """Complete the names of recipes that come with the package, and files."""
    from robustprune.recipe import packaged

    names = " ".join(packaged.names())
    preamble = {shell: script.format(names) for shell, script in _RECIPES.items()}
    return {
        **shtab.FILE,
        **dict.fromkeys(_RECIPES, _OFFER),
        "preamble": preamble,
    }
