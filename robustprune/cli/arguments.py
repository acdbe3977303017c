"""Arguments that several commands share: they are added to a parser here, and read."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile, mkdtemp
from typing import Any

from robustprune.cli import typed
from robustprune.errors import InvalidError
from robustprune.paths import told

MODEL = "a model file of a run or an export, a plain state dict, or a timm name"
"""The help of an argument that names a network; `robustprune.cli.network` opens it."""
_READ_AS: dict[str, Callable[[str], Any]] = {
    "N": typed.positive,
    "X": typed.real,
    "RECIPE": typed.recipe,
    **dict.fromkeys(("DIR", "FILE"), typed.path),
}
_FLAG: dict[str, Any] = {"action": "store_true"}


def option(parser: ArgumentParser, usage: str, help: str, **more: Any) -> None:
    """Add an option that is not required.

    Args:
        parser: of a command.
        usage: ``--name VALUE``, or ``--name`` alone for a flag. VALUE says what is expected: N a
            whole number from 1 on, X a number, DIR, FILE and RECIPE a path, anything else a text.
        help: its help.
        more: further arguments of `ArgumentParser.add_argument`.
    """
    name, _, value = usage.partition(" ")
    kind = {"metavar": value, "type": _READ_AS.get(value, str)} if value else _FLAG
    parser.add_argument(name, help=help, **{**kind, **more})


def add_recipes(parser: ArgumentParser, *, nargs: str = "+") -> None:
    """Add ``recipes``, by default at least one, and ``--set``."""
    text = "files, or names that `robustprune recipes` lists, e.g. quickstart"
    parser.add_argument("recipes", type=typed.recipe, nargs=nargs, metavar="RECIPE", help=text)
    add_overrides(parser)


def add_overrides(parser: ArgumentParser) -> None:
    """Add ``--set``."""
    text = "change the recipe, e.g. seed=1, prune.optimizer.lr=1, evaluate.1.steps=20"
    option(parser, "--set KEY=VALUE", text, action="append", default=[], dest="overrides")


def add_imports(parser: ArgumentParser) -> None:
    """Add ``--recipe``, for commands that take no recipe otherwise."""
    text = "run this recipe's imports: first, for parts and models of your own"
    option(parser, "--recipe RECIPE", text, dest="imports_of")


def run_imports(recipe: Path) -> None:
    """Run the ``imports:`` of a recipe, so that what they register can be named.

    Raises:
        UsageError: the recipe cannot be read, or an import is missing or raises.
    """
    from robustprune.recipe import imports  # torch comes with it
    from robustprune.recipe.document import read_extended

    document = read_extended(recipe)
    if problems := imports.run_imports(document.values.get("imports"), recipe.parent):
        raise InvalidError(document.located(problems))


def add_processes(parser: ArgumentParser) -> None:
    """Add ``--processes`` and ``--restarts``."""
    text = "share the work among N processes of this machine, one per GPU (default: 1)"
    option(parser, "--processes N", text)
    text = "with --processes: start them anew up to N times when one dies (default: 0)"
    option(parser, "--restarts N", text)


def add_network(parser: ArgumentParser) -> None:
    """Add what must be said of a network whose file does not say it."""
    text = "of a plain state dict: its architecture, ours or timm's, or as a recipe writes it, "
    option(parser, "--arch NAME", f"{text}'{{name: resnet50, num_classes: 10}}'")
    text = "another dataset than it was trained on, or as a recipe writes it, "
    option(parser, "--data NAME", f"{text}'{{name: imagefolder, size: 64}}'")
    text = "the names of its classes in the order of its outputs, where its file has none or others"
    option(parser, "--classes NAMES", f"{text}: a,b,c, a file with one per line, or imagenet-1k")
    option(parser, "--root DIR", "where the dataset's files are")


def add_runs(parser: ArgumentParser) -> None:
    """Add ``runs``, at least one, and ``--uri``."""
    text = "a run folder, a results.json, or mlflow: and the id or name of a recipe's run there"
    parser.add_argument("runs", type=_run, nargs="+", metavar="RUN", help=text)
    text = "the MLflow store (default: MLFLOW_TRACKING_URI, or runs/mlflow.db)"
    option(parser, "--uri URI", text)


def _run(text: str) -> Path | str:
    """Return a path, or the id or name of a run that an MLflow store holds."""
    name = text.removeprefix("mlflow:")
    if not name:
        raise ArgumentTypeError("it names no run. Write mlflow:<id> or mlflow:<name>.")
    return typed.path(text) if name == text else name


@contextmanager
def run_folders(arguments: Namespace) -> Iterator[list[Path]]:
    """Give the folders of ``runs``; those fetched from MLflow are gone when the block ends.

    Raises:
        UsageError: the store has no such run.
    """
    from robustprune import tracking  # `robustprune --help` need not wait for it

    with TemporaryDirectory(prefix="robustprune-") as into:
        yield [
            run
            if isinstance(run, Path)
            else tracking.download_run(run, arguments.uri, Path(mkdtemp(dir=into)))
            for run in arguments.runs
        ]


def writing(path: Path) -> AbstractContextManager[None]:
    """Say of a file that the user named that it could not be written, and what to do."""
    return told(f"cannot write {path}", "Name another file.")


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written before anything is computed for it."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path.parent).close()
