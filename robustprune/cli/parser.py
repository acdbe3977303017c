"""What can be typed. Commands import what they need when they run."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from robustprune import __version__
from robustprune.cli import help, typed

_FORMAT = argparse.RawDescriptionHelpFormatter
_MODEL = "a model file of a run or an export, a plain state dict, or a timm name"


class _Parser(argparse.ArgumentParser):
    """Notes what was typed as ``words``, for the line that goes on after an interruption."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """As the library's, and ``words`` in what it gives."""
        arguments = super().parse_args(args, namespace)
        arguments.words = list(sys.argv[1:] if args is None else args)
        return arguments


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser("robustprune", description=help.OVERVIEW, formatter_class=_FORMAT)
    top.add_argument("--version", action="version", version=f"robustprune {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(commands, "run", "run recipes", help.RUN)
    _recipes(run)
    run.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=[VALUE,…]",
        dest="sweeps",
        help="a run for each value; given several times, for each combination",
    )
    run.add_argument(
        "--out", type=typed.path, metavar="DIR", help="the run's folder (default: a new one)"
    )
    run.add_argument(
        "--resume", action="store_true", help="go on with --out, or with the newest unfinished run"
    )
    run.add_argument(
        "--max-steps",
        type=typed.positive,
        metavar="N",
        help="cut each stage after N optimizer steps",
    )
    run.add_argument(
        "--fresh",
        action="store_true",
        help="train the dense network even if an earlier run has trained the same",
    )
    _processes(run)
    run.add_argument("--quiet", action="store_true", help="print warnings and errors only")

    check = _command(commands, "check", "validate recipes and show what one would do", help.CHECK)
    _recipes(check)

    listing = _command(commands, "list", "list what recipes can name", help.LIST)
    listing.add_argument("family", nargs="?", help="e.g. objectives, pruners, evaluators, models")
    listing.add_argument("pattern", nargs="?", default="", help="only names that contain this")
    _imports(listing)

    show = _command(commands, "show", "show a recipe, a model file or a run folder", help.SHOW)
    show.add_argument(
        "path", type=typed.path, help="a recipe, a model.safetensors, or a run folder"
    )
    _overrides(show)
    _foreign(show)
    _imports(show)

    evaluate = _command(commands, "evaluate", "judge a saved network", help.EVALUATE)
    evaluate.add_argument(
        "--evaluator",
        action="append",
        default=[],
        metavar="NAME[:KEY=VALUE,…]",
        help="an evaluator and its options; may be given several times",
    )
    _saved(evaluate)

    _certify(_command(commands, "certify", "certify a saved network by smoothing", help.CERTIFY))
    _verify(_command(commands, "verify", "verify a saved network by bounds", help.VERIFY))

    _export(_command(commands, "export", "write a network for others to load", help.EXPORT))
    _import_hydra(
        _command(commands, "import-hydra", "read a checkpoint of the reference", help.IMPORT_HYDRA)
    )

    report = _command(commands, "report", "write a page about runs", help.REPORT)
    _runs(report)
    report.add_argument(
        "--out",
        type=typed.path,
        metavar="FILE",
        help="the page, ….html (default: report/report.html in the one run folder, or report.html)",
    )
    _runs(_command(commands, "compare", "print runs side by side", help.COMPARE))

    ui = _command(commands, "ui", "open MLflow's UI on the runs", help.UI)
    ui.add_argument("store", nargs="?", metavar="STORE", help="a runs folder, a store, or a recipe")
    ui.add_argument("--port", type=typed.positive, default=5000, metavar="N", help="default: 5000")

    _command(commands, "schema", "print the JSON Schema of recipes", help.SCHEMA)
    return top


def _certify(certify: argparse.ArgumentParser) -> None:
    """Options that are not given are left to the evaluator, whose defaults the help repeats."""
    certify.add_argument(
        "--sigma",
        type=typed.real,
        metavar="S",
        help="the noise's standard deviation (default: that of training, or 0.25)",
    )
    certify.add_argument(
        "--n0", type=typed.positive, metavar="N", help="draws that choose the class (default: 100)"
    )
    certify.add_argument(
        "--n", type=typed.positive, metavar="N", help="draws that certify it (default: 10000)"
    )
    certify.add_argument(
        "--alpha", type=typed.real, metavar="A", help="chance of error an image (default: 0.001)"
    )
    certify.add_argument(
        "--radius",
        type=typed.real,
        metavar="R",
        help="the l2 radius at which an image counts (default: 110/255)",
    )
    certify.add_argument(
        "--sequential",
        action="store_true",
        default=None,
        help="stop drawing when it is settled whether the radius is certified",
    )
    _saved(certify)


def _verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument(
        "--eps", type=typed.real, metavar="E", help="the radius (default: that of training)"
    )
    verify.add_argument(
        "--bounds",
        type=typed.names,
        metavar="NAME,…",
        help="what to try, of ibp, crown_ibp, crown and alpha_crown (default: all)",
    )
    verify.add_argument(
        "--seconds", type=typed.real, metavar="S", help="limit of time (default: none)"
    )
    verify.add_argument(
        "--memory", type=typed.real, metavar="GIB", help="limit of memory (default: 4)"
    )
    verify.add_argument(
        "--no-attack",
        action="store_true",
        help="leave out PGD, which the verdicts are checked against",
    )
    _saved(verify)


def _command(commands: Any, name: str, summary: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=text, formatter_class=_FORMAT
    )
    command.set_defaults(run=_later(name))
    return command


def _later(name: str) -> Callable[[argparse.Namespace], None]:
    def run(arguments: argparse.Namespace) -> None:
        module = importlib.import_module(f"robustprune.cli.{name.replace('-', '_')}_command")
        module.command(arguments)

    return run


def _recipes(command: argparse.ArgumentParser) -> None:
    text = "recipe files, e.g. recipes/quickstart.yaml"
    command.add_argument("recipes", type=typed.path, nargs="+", metavar="RECIPE", help=text)
    _overrides(command)


def _imports(command: argparse.ArgumentParser) -> None:
    text = "run this recipe's imports: first, for parts and models of your own"
    command.add_argument(
        "--recipe", type=typed.path, dest="imports_of", metavar="RECIPE", help=text
    )


def _processes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--processes",
        type=typed.positive,
        metavar="N",
        help="share the work among N processes of this machine, one a GPU (default: 1)",
    )
    command.add_argument(
        "--restarts",
        type=typed.positive,
        metavar="N",
        help="with --processes: start them anew up to N times when one dies (default: 0)",
    )


def _saved(command: argparse.ArgumentParser) -> None:
    """What every command has that judges a saved network."""
    _processes(command)
    command.add_argument("model", type=typed.path, help=_MODEL)
    _foreign(command)
    command.add_argument(
        "--samples", type=typed.positive, metavar="N", help="only the first N images"
    )
    command.add_argument("--seed", type=int, metavar="N", help="another seed than the recipe's")
    _imports(command)
    command.add_argument(
        "--json", type=typed.path, metavar="FILE", help="write the metrics there too"
    )
    command.add_argument(
        "--images",
        type=typed.path,
        metavar="FILE",
        help="write what became of each image there, as .csv or .parquet",
    )
    command.add_argument(
        "--state",
        type=typed.path,
        metavar="DIR",
        help="keep finished batches there; the same command goes on where it was stopped",
    )


def _foreign(command: argparse.ArgumentParser) -> None:
    """What must be said of a network whose file does not say it."""
    command.add_argument(
        "--arch",
        metavar="NAME",
        help="of a plain state dict: its architecture, ours or timm's, or as a recipe writes it, "
        "'{name: resnet50, num_classes: 10}'",
    )
    command.add_argument(
        "--data",
        metavar="NAME",
        help="another dataset than it was trained on, or as a recipe writes it, "
        "'{name: imagefolder, size: 64}'",
    )
    command.add_argument(
        "--classes",
        metavar="NAMES",
        help="the names of its classes in the order of its outputs, where its file has none or "
        "others: a,b,c, a file with one a line, or imagenet-1k",
    )
    command.add_argument(
        "--root", type=typed.path, metavar="DIR", help="where the dataset's files are"
    )


def _export(export: argparse.ArgumentParser) -> None:
    export.add_argument("model", type=typed.path, help=_MODEL)
    export.add_argument(
        "--format",
        choices=["dense", "packed", "onnx"],
        default="packed",
        help="a plain state dict, a small file, or one for other runtimes (default: packed)",
    )
    export.add_argument(
        "--out", type=typed.path, metavar="FILE", help="the file (default: beside the model)"
    )
    export.add_argument(
        "--values",
        choices=["fp32", "fp16"],
        help="packed: precision of the kept weights (default: fp32, exact)",
    )
    export.add_argument(
        "--normalisation",
        choices=["fold", "inside"],
        help="dense: fold it into the first layer where that is exact, or state it (default: fold)",
    )
    _foreign(export)
    _imports(export)


def _import_hydra(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", type=typed.path, help="a checkpoint.pth.tar of its train.py")
    command.add_argument(
        "--arch", metavar="NAME", help="the network's name there, or ours (default: the file's)"
    )
    command.add_argument(
        "--density",
        type=typed.real,
        metavar="D",
        help="its k, the share of weights kept; needed for a checkpoint with scores",
    )
    command.add_argument(
        "--data", metavar="NAME", help="the dataset it was trained on, to be noted"
    )
    command.add_argument(
        "--out",
        type=typed.path,
        metavar="FILE",
        help="the model file (default: beside the checkpoint)",
    )


def _runs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "runs",
        type=typed.run,
        nargs="+",
        metavar="RUN",
        help="a run folder, a results.json, or mlflow: and the id or name of a recipe's run there",
    )
    command.add_argument(
        "--uri",
        metavar="URI",
        help="the MLflow store (default: MLFLOW_TRACKING_URI, or runs/mlflow.db)",
    )


def _overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change the recipe, e.g. seed=1, prune.optimizer.lr=1, evaluate.1.steps=20",
    )
