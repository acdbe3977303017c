"""Hints for what is typed by mistake: other frameworks' options, commands and files."""

from __future__ import annotations

import shlex
from argparse import Action, ArgumentError, ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from robustprune.errors import UsageError, nearest, synonyms

_SETTINGS = {
    "seed": "seed={}",
    "epochs": "pretrain.epochs={}",
    "lr": "pretrain.optimizer.lr={}",
    "learning-rate": "pretrain.optimizer.lr={}",
    "weight-decay": "pretrain.optimizer.weight_decay={}",
    "momentum": "pretrain.optimizer.momentum={}",
    "optimizer": "pretrain.optimizer.name={}",
    "batch-size": "pretrain.batch_size={}",
    "density": "prune.densities=[{}]",
    "densities": "prune.densities=[{}]",
    "sparsity": "prune.densities=[{}]",
    "method": "prune.methods=[{}]",
    "pruner": "prune.methods=[{}]",
    "model": "model={}",
    "arch": "model={}",
    "weights": "model.weights={}",
    "data": "data={}",
    "dataset": "data={}",
    "objective": "objective={}",
    "loss": "objective={}",
    "eps": "objective.eps={}",
    "epsilon": "objective.eps={}",
    "attack": "evaluate=[{}]",
    "evaluator": "evaluate=[{}]",
    "samples": "evaluate.0.samples={}",
    "threads": "compute.threads={}",
    "precision": "compute.precision={}",
    "device": "compute.device={}",
    "gpu": "compute.device={}",
    "cuda": "compute.device={}",
    "name": "name={}",
}
"""The change of a recipe that does what an option of this name does elsewhere."""
_OF_EVALUATORS = ("eps", "epsilon", "steps", "iterations", "norm", "restarts", "alpha", "step-size")
_OF_EXPORT = ("onnx", "dense", "packed", "sparse")
_STAGES = ("epochs", "lr", "learning-rate", "weight-decay", "momentum", "optimizer", "batch-size")


class Parser(ArgumentParser):
    """A parser whose errors say what would have been right, and where it is explained."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, with the line that explains more; exit 2."""
        missing = message.startswith("the following arguments are required")
        about = [
            f"\n{action.metavar or action.dest}: {action.help}"
            for action in self._actions
            if missing and not action.option_strings and action.help
        ]
        text = "".join([message, *about])
        super().error(f"{text}\n`{self.prog} --help` explains, with examples.")

    def _check_value(self, action: Action, value: Any) -> None:
        """Say which of the choices was meant."""
        if action.choices is not None and value not in action.choices:
            hint = nearest(str(value), map(str, action.choices))
            if Path(str(value)).suffix in (".yaml", ".yml"):
                hint = f" A recipe is run by: robustprune run {value}.{hint}"
            raise ArgumentError(action, f"there is no '{value}'.{hint}")


def refuse(parser: ArgumentParser, unknown: Sequence[str], words: Sequence[str]) -> NoReturn:
    """Say of what a command does not take what to write in its place; exit 2.

    Args:
        parser: of the command.
        unknown: what was left over.
        words: everything that was typed.
    """
    first = next((word for word in unknown if word.startswith("--")), unknown[0])
    option, equals, value = first.partition("=")
    if not equals and option.startswith("--"):
        following = [*words[words.index(first) + 1 :], ""][0]
        value = "" if following.startswith("-") else following
    hint = _hint(parser, option, value, first)
    parser.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")


def _hint(parser: ArgumentParser, option: str, value: str, word: str) -> str:
    name = option.lstrip("-")
    options = [o for action in parser._actions for o in action.option_strings if o[:2] == "--"]
    if not option.startswith("-"):
        if "--set" in options and ("=" in word or word.isdecimal()):
            return " --set takes KEY=VALUE in one word, for each change: --set seed=1."
        if "--evaluator" in options and "=" in word:
            return f" Options of a part stand behind its name: pgd:{word}"
        there = "--out" in options and "=" not in word
        return f" Files that are written are named by an option, such as --out {word}." * there
    if "--set" in options and name in _SETTINGS and option not in options:
        return _setting(name, value)
    if name == "set":
        return " Recipes take --set, as in: robustprune run RECIPE --set seed=1."
    if "--evaluator" in options and name in _OF_EVALUATORS:
        ours = (*synonyms(name), name.replace("-", "_"))[0]
        return f" Options of an evaluator stand behind its name: --evaluator pgd:{ours}={value}"
    choices = [a.choices for a in parser._actions if "--format" in a.option_strings]
    if choices == [None] and name in _OF_EXPORT:
        return f" It is a format: --format {name}."
    positional = [a.metavar or a.dest.upper() for a in parser._actions if not a.option_strings]
    if name.upper() in positional:
        return f" {name.upper()} is written without an option: {parser.prog} {value}."
    return nearest(option, options, cutoff=0.65, key=lambda word: word.lstrip("-"))


def _setting(name: str, value: str) -> str:
    """Translate an option into a change of the recipe."""
    if name in ("gpu", "cuda") or (name == "device" and value != "cpu"):
        auto = "compute.device is 'auto' by default, and takes the GPU that is there"
        return f" {auto}: leave it out, or write --set compute.device=auto."
    if name == "sparsity":
        value = _complement(value)
    line = _SETTINGS[name].format(value or "…")
    quoted = shlex.quote(line) if value or "[" in line else line
    hint = f" A recipe's options are changed by --set: --set {quoted}"
    if name in _STAGES:
        return f"{hint}; of the other stages: prune.…, finetune.…"
    return hint if name != "sparsity" else f"{hint} (a density is the share that is kept)"


def _complement(value: str) -> str:
    """The density of a sparsity, which some write in percent; empty if it leaves nothing."""
    try:
        share = float(value)
    except ValueError:
        return ""
    density = 1 - (share / 100 if share > 1 else share)
    return f"{density:.6g}" if 0 < density <= 1 else ""


def check_model_path(path: Path) -> None:
    """Refuse what is named in place of a model's file, and say which file was meant.

    Raises:
        UsageError: it is a folder or a recipe, or a file beside it has nearly its name.
    """
    found = sorted([*path.glob("model.safetensors"), *path.glob("*/model.safetensors")])
    if path.is_dir() and found:
        names = ", ".join(map(str, found[:6]))
        raise UsageError(f"{path} is a folder, and no model file. Name a network in it: {names}.")
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(
            f"{path} is a recipe, and no model file. Run it: robustprune run {path}. That writes "
            "networks, to runs/<recipe>/<id>/<network>/model.safetensors."
        )
    beside = [str(other) for other in path.parent.glob("*.safetensors")]
    if not path.exists() and path.parent != Path() and beside:
        raise UsageError(f"there is no model file {path}.{nearest(str(path), beside)}")
    if not (path.exists() or path.suffix) and len(path.parts) == 1:
        from robustprune.models import check_name  # torch comes with it

        try:
            check_name(str(path))
        except UsageError as error:
            raise UsageError(f"there is no file {path}, and no model of timm's: {error}") from None
