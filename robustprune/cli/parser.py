"""What can be typed, and the help that teaches it. Commands import what they need when they run."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustprune import __version__

_FORMAT = argparse.RawDescriptionHelpFormatter

_OVERVIEW = """\
Make neural networks small and robust. A recipe (a YAML file) says what to train, how to prune it
and what to judge it by; one command runs it.

  robustprune run recipes/quickstart.yaml         dense, HYDRA and magnitude pruning on real digits
  robustprune check recipes/quickstart.yaml       what that would do, without training
  robustprune list objectives                     what a recipe can name, with every option
  robustprune evaluate runs/…/model.safetensors   what a saved network withstands
"""

_RUN = """\
Train a dense network, prune it by every method at every density, finetune, and judge each one.

  robustprune run recipes/quickstart.yaml
  robustprune run recipes/cifar10/cnn_small_trades.yaml --set seed=1 --set prune.densities=[0.01]
  robustprune run recipes/quickstart.yaml --resume     go on where an interrupted run stopped
  robustprune run my.yaml --max-steps 2                try a recipe out in a minute

Everything is written to runs/<recipe>/<id>/: recipe.yaml (resolved), results.json, and a folder a
network with model.safetensors and history.json. MLflow's store is runs/mlflow.db:
  mlflow ui --backend-store-uri sqlite:///runs/mlflow.db
"""

_CHECK = """\
Validate a recipe and print, without training: the resolved recipe, how many weights each layer
keeps at each density, the number of steps, and what would be written where. Exit 2 if anything is
wrong; every problem is named with its line.
"""

_LIST = """\
List what recipes can name. Without a family: every family. With one: every part and its options.

  robustprune list
  robustprune list objectives
  robustprune list objectives --recipe my.yaml     with the parts that its imports: register
  robustprune list models resnet                   backbones, ours and timm's, that match
"""

_SHOW = """\
Show a recipe resolved (every option, defaults included), a model file (architecture, layers,
densities, where it comes from), or a run folder (its table).
"""

_EVALUATE = """\
Judge a saved network. Without --evaluator: by those of the recipe that made it, on the same
images and with the same seeds, which gives the same numbers.

  robustprune evaluate runs/quickstart/<id>/hydra-0.01/model.safetensors
  robustprune evaluate model.safetensors --evaluator clean --evaluator pgd:eps=8/255,steps=20
"""

_SCHEMA = """\
Print the JSON Schema of recipes, for editors that complete and check YAML:

  robustprune schema > recipe.schema.json
  # yaml-language-server: $schema=recipe.schema.json      (first line of a recipe)
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser("robustprune", description=_OVERVIEW, formatter_class=_FORMAT)
    top.add_argument("--version", action="version", version=f"robustprune {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(commands, "run", "run a recipe", _RUN)
    _recipe(run)
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="the run's folder (default: a new one)"
    )
    run.add_argument(
        "--resume", action="store_true", help="go on with --out, or with the newest unfinished run"
    )
    run.add_argument(
        "--max-steps", type=_positive, metavar="N", help="cut each phase after N optimizer steps"
    )
    run.add_argument("--quiet", action="store_true", help="print warnings and errors only")

    check = _command(commands, "check", "validate a recipe and show what it would do", _CHECK)
    _recipe(check)

    listing = _command(commands, "list", "list what recipes can name", _LIST)
    listing.add_argument("family", nargs="?", help="e.g. objectives, pruners, evaluators, models")
    listing.add_argument("pattern", nargs="?", default="", help="only names that contain this")
    _imports(listing)

    show = _command(commands, "show", "show a recipe, a model file or a run folder", _SHOW)
    show.add_argument("path", type=Path, help="a recipe, a model.safetensors, or a run folder")
    _overrides(show)
    _imports(show)

    evaluate = _command(commands, "evaluate", "judge a saved network", _EVALUATE)
    evaluate.add_argument("model", type=Path, help="a model.safetensors of a run")
    evaluate.add_argument(
        "--evaluator",
        action="append",
        default=[],
        metavar="NAME[:KEY=VALUE,…]",
        help="an evaluator and its options; may be given several times",
    )
    evaluate.add_argument("--data", metavar="NAME", help="another dataset than it was trained on")
    evaluate.add_argument("--root", type=Path, metavar="DIR", help="where the dataset's files are")
    evaluate.add_argument("--samples", type=_positive, metavar="N", help="only the first N images")
    evaluate.add_argument("--seed", type=int, metavar="N", help="another seed than the recipe's")
    _imports(evaluate)
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the metrics there too")

    _command(commands, "schema", "print the JSON Schema of recipes", _SCHEMA)
    return top


def _command(commands: Any, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=text, formatter_class=_FORMAT
    )
    command.set_defaults(run=_later(name))
    return command


def _later(name: str) -> Callable[[argparse.Namespace], None]:
    def run(arguments: argparse.Namespace) -> None:
        module = importlib.import_module(f"robustprune.cli.{name}_command")
        module.command(arguments)

    return run


def _recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, help="a recipe file, e.g. recipes/quickstart.yaml")
    _overrides(command)


def _imports(command: argparse.ArgumentParser) -> None:
    text = "run this recipe's imports: first, for parts and models of your own"
    command.add_argument("--recipe", type=Path, dest="imports_of", metavar="RECIPE", help=text)


def _overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change the recipe, e.g. seed=1, prune.optimizer.lr=1, evaluate.1.steps=20",
    )


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got '{text}'")
    return value
