"""Write a part of your own to start from: one file that works, and its test.

  robustprune new loss my_loss              my_loss.py and test_my_loss.py, which passes
  robustprune new pruner my_pruner          a mask from scores of the trained weights
  robustprune new evaluator my_noise        what becomes of each image
  robustprune new dataset my_images --out parts

The lines for a recipe are printed. `robustprune check --part my_loss.py` tells what holds of the
file while you change it; the test does the same. Nothing is ever overwritten.
"""

from __future__ import annotations

import keyword
from argparse import ArgumentParser, Namespace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from robustprune.cli.arguments import option, writing
from robustprune.errors import UsageError

_KINDS = {
    "loss": ("objectives", "objective: {{name: {}, eps: 8/255}}"),
    "pruner": ("pruners", "prune:\n    methods: [{}]"),
    "evaluator": ("evaluators", "evaluate: [{{name: {}, sigma: 0.1, samples: 100}}]"),
    "dataset": ("datasets", "data: {{name: {}, root: FOLDER, size: 32}}"),
}
"""For each kind its family, and what a recipe says to use it."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("kind", choices=[*_KINDS], help="the kind of part: " + ", ".join(_KINDS))
    parser.add_argument("name", help="its name in recipes, and the file's: lower_case_words")
    option(parser, "--out DIR", "the folder to write to (default: this one)", default=Path())


def command(arguments: Namespace) -> None:
    """Write the part and its test, and print what a recipe says to use it."""
    from robustprune.tracking import Console

    kind, name, folder = arguments.kind, arguments.name, arguments.out
    family, line = _KINDS[kind]
    _check_name(name, family)
    templates = {f"{name}.py": f"{kind}.py.txt", f"test_{name}.py": f"test_{kind}.py.txt"}
    paths = [folder / file for file in templates]
    if taken := [str(path) for path in paths if path.exists()]:
        raise UsageError(f"{taken[0]} is there already. Choose another name, or another --out.")
    for path, template in zip(paths, templates.values(), strict=True):
        text = (files("robustprune") / "templates" / template).read_text(encoding="utf-8")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rendered(text, name), encoding="utf-8")
    console = Console()
    console.info(f"written: {paths[0]} and {paths[1]}")
    console.info(f"  python -m pytest {paths[1]}\n  robustprune check --part {paths[0]}")
    console.info("in a recipe (imports: is relative to it):")
    console.info(f"  imports: [{paths[0].as_posix()}]\n  {line.format(name)}")


def rendered(template: str, name: str) -> str:
    """A template with the name in place of ``my_part``, and of ``MyPart`` as a class has it."""
    words = "".join(word.capitalize() for word in name.split("_"))
    return template.replace("my_part", name).replace("MyPart", words)


def _check_name(name: str, family: str) -> None:
    """Refuse a name that Python, recipes or other parts cannot take."""
    if not name.isidentifier() or name != name.lower() or name.startswith("_"):
        words = "".join(f"_{c}" if c.isupper() else c for c in name).lower().strip("_")
        usual = "_".join("".join(c if c.isalnum() else " " for c in words).split())
        remedy = f"Write {usual}." if usual.isidentifier() else "Write it like my_part."
        raise UsageError(f"'{name}' is no name in lower_case_words. {remedy}")
    from robustprune.families import family as registry_of  # torch comes with the parts

    registry = registry_of(family)
    if name in registry.names():
        owner = registry.get(name).__module__
        raise UsageError(
            f"'{name}' is taken: {owner} has registered one of the {family} by that name. Write "
            f"my_{name}, or another name."
        )
    if keyword.iskeyword(name) or find_spec(name) is not None:
        raise UsageError(f"'{name}.py' would hide Python's own '{name}'. Write my_{name}.")
