"""Make neural networks small and robust.

A recipe (a YAML file) says what to train, how to prune it and what to judge it by; one command runs
it.

  robustprune run recipes/quickstart.yaml         dense, HYDRA and magnitude pruning on real digits
  robustprune check recipes/quickstart.yaml       what that would do, without training
  robustprune tune recipes/quickstart.yaml --over 'prune.optimizer.lr=log(0.1,1000)' --trials 15
  robustprune list objectives                     what a recipe can name, with every option
  robustprune evaluate runs/…/model.safetensors   what a saved network withstands, by attacks
  robustprune verify runs/…/model.safetensors     the same proved, by bounds on its logits
  robustprune certify runs/…/model.safetensors    the same proved for it smoothed by noise
  robustprune bench runs/…/model.safetensors      how fast it is, by sparse kernels and by others
  robustprune export runs/…/model.safetensors     a file as small as what is kept
  robustprune report runs/quickstart/<id>         all of it as one page to look at
  robustprune ui                                  compare runs in the browser, in MLflow's UI
  robustprune new loss my_loss                    a loss of your own to start from, with its test

What you type is completed by your shell after `robustprune completion bash` (zsh, tcsh, fish).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from robustprune.cli.arguments import run_imports
from robustprune.cli.hints import Parser, refuse
from robustprune.cli.outcome import OK, USAGE, Outcome, launched, outcome_of, rank
from robustprune.stopping import end_with_parent
from robustprune.version import __version__

COMMANDS = {
    "run": "run recipes",
    "tune": "search options of a recipe for the lowest loss on the validation split",
    "check": "validate recipes and show what one would do",
    "recipes": "list the recipes that come with it, or copy one",
    "list": "list what recipes can name",
    "show": "show a recipe, a model file or a run folder",
    "evaluate": "evaluate saved networks by attacks and other evaluators",
    "certify": "certify saved networks by randomised smoothing",
    "verify": "verify saved networks by bounds on their logits",
    "bench": "time saved networks by torch, ONNX Runtime and the sparse kernels",
    "export": "write a network in a format for others",
    "import-hydra": "read a checkpoint of the reference implementation",
    "report": "write a page about runs",
    "compare": "print runs side by side",
    "ui": "open MLflow's UI on the runs",
    "setup": "install the two libraries that pip cannot resolve",
    "new": "write a loss, pruner, evaluator or dataset of your own to start from",
    "schema": "print the JSON Schema of recipes",
    "completion": "print a script by which a shell completes commands",
}
"""Every command: a module of this package, which is imported when the command is called."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by default that of the process's own arguments; return its exit code."""
    end_with_parent()
    words = sys.argv[1:] if argv is None else list(argv)
    top = parser(words[:1])
    arguments, unknown = top.parse_known_args(words)
    if unknown:
        refuse(arguments.parser, unknown, words)
    arguments.words = words  # for the line that resumes
    if (outcome := Outcome.earlier()) is not None:
        return _tell(outcome)
    if rank():
        warnings.simplefilter("ignore")  # the main process warns
    try:
        if recipe := getattr(arguments, "imports_of", None):
            run_imports(recipe)
        arguments.command(arguments)
        if group := _group():  # one still at work would abort if another had ended
            group.barrier()
            group.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        return _tell(outcome_of(error))
    return OK


def parser(commands: Iterable[str] = COMMANDS) -> Parser:
    """Return the parser of the command line.

    Args:
        commands: those whose modules are imported and add their arguments; of others there is only
            the line in the overview.
    """
    formatter = RawDescriptionHelpFormatter
    top = Parser("robustprune", description=__doc__, formatter_class=formatter)
    top.add_argument("--version", action="version", version=f"robustprune {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, formatter_class=formatter)
        if name in commands:
            module = importlib.import_module(f"robustprune.cli.{name.replace('-', '_')}")
            subparser.description = module.__doc__
            subparser.set_defaults(command=module.command, parser=subparser)
            module.add_arguments(subparser)
    return top


def _tell(outcome: Outcome) -> int:
    """Print an outcome, or leave it to the process that launched this one; return its code."""
    if launched():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the others' end must not cut it short
        with suppress(OSError):  # of a full disk, of which it may be the news
            outcome.write()
            return outcome.code
    # what processes find before they know of each other, the first one of each machine says
    alone = outcome.code == USAGE and not _group() and os.environ.get("LOCAL_RANK", "0") != "0"
    if not alone and not (outcome.echo and rank()):
        print(outcome.of(rank()).text, file=sys.stderr)
    return outcome.code


def _group() -> Any:
    """Return torch.distributed if this process is connected to others by it."""
    distributed: Any = sys.modules.get("torch.distributed")
    connected = getattr(distributed, "is_initialized", bool)  # some builds of torch have none
    return distributed if connected() else None
