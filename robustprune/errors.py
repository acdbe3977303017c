"""Errors by whose fault they are: the type of one decides the exit code."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

SYNONYMS: dict[str, tuple[str, ...]] = {
    word: tuple(ours.split())
    for words, ours in {
        "density sparsity sparsities pruning_ratio prune_ratio ratio ratios amount": "densities",
        "epsilon epsilons radius": "eps",
        "alpha stepsize": "step_size",
        "iterations iters num_steps n_iter": "steps",
        "learning_rate": "lr",
        "scheduler lr_scheduler": "schedule",
        "bs batch": "batch_size",
        "dataset": "data",
        "network net arch architecture backbone": "model",
        "loss criterion": "objective",
        "attack": "evaluator evaluate objective",
        "attacks": "evaluator evaluate",
        "eval test predict": "evaluate",
        "gpu gpus cuda": "device auto",
        "method pruners algorithm": "methods pruner",
        "pruner": "methods",
        "objective": "loss",
        "pretrained checkpoint": "weights",
        "madry at adv adversarial pgd_at": "pgd",
        "ce cross_entropy standard natural erm": "benign clean",
        "l1 lwm": "magnitude",
        "apgd aa": "autoattack",
        "imagenet": "imagefolder",
        "speed time": "latency",
        "params parameters": "size",
        "macs": "flops",
        "train prune fit": "run",
        "prove": "verify",
        "benchmark": "bench",
        "convert": "export",
        "validate lint": "check",
        "create init": "new",
        "plot html": "report",
        "diff": "compare",
        "mlflow dashboard": "ui",
        "search hpo": "tune",
        "pt pth pytorch torch state_dict": "dense",
    }.items()
    for word in words.split()
}
"""Words of the field, and ours for them; of several the first that is a choice counts."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

Place = tuple[str | int, ...]
"""Where in a nested document: ``("evaluate", 1, "eps")``."""


class UsageError(ValueError):
    """The user's input is at fault (exit code 2). The message names the value and the remedy."""


class OwnCodeError(UsageError):
    """A file that a recipe imports raised an error; the message names its line."""


class ContractError(TypeError):
    """A part, or its class, gave something else than its family promises: its author's fault."""

    def __init__(self, part: object, message: str) -> None:
        super().__init__(message)
        self.part = part if isinstance(part, type) else type(part)


class MissingDependencyError(UsageError):
    """An optional library is not installed. The message holds the line that installs it."""


class DivergedError(UsageError):
    """Training produced NaN, infinity or an exploding loss. The last good state is kept."""


class FullDiskError(UsageError):
    """The disk became full during a run, which can be resumed from what was saved."""

    def __init__(self, reason: str, folder: Path) -> None:
        super().__init__(f"{reason}. What was finished is kept in {folder}. Make room and resume")


class SoundnessError(RuntimeError):
    """A certificate verified images that an attack broke (exit code 1). All files are written."""


class PeerError(RuntimeError):
    """Another process of the job has failed, and says itself why; this one has nothing to add."""

    def __init__(self, rank: int) -> None:
        super().__init__(f"process {rank} of the job has failed")


class InterruptedRun(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; what had been saved stays saved (exit code 130)."""


@dataclass(frozen=True)
class Problem:
    """One fault of a document."""

    place: Place
    """``("evaluate", 1, "eps")``; empty for the document itself."""
    message: str
    """The value, the choices and the remedy, in one sentence."""

    def __str__(self) -> str:
        """``evaluate.1.eps: message``."""
        where = ".".join(map(str, self.place))
        return f"{where}: {self.message}" if where else self.message


class InvalidError(UsageError):
    """A document or a set of options with one or more problems, all of them named."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def first_line(error: BaseException, *, most: int = 300) -> str:
    """The first line of a library's error, without colours; its type if it says nothing."""
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    return (lines or [type(error).__name__])[0][:most].rstrip()


def nearest(
    name: str, choices: Iterable[str], *, cutoff: float = 0.5, key: Callable[[str], str] = str
) -> str:
    """`` Did you mean 'x'? Choices: a, b, x.``, to be put behind the sentence that names ``name``.

    Long lists are cut to the ten best matches.

    Args:
        name: the one that was given.
        choices: those that would have been right.
        cutoff: how alike a choice must be to be suggested, in [0, 1].
        key: turns a name into what is compared, e.g. a file's name without its suffix.
    """
    choices = sorted(choices)
    if not choices:
        return " There are no options."
    folded = {key(choice).lower(): choice for choice in choices}

    def alike(most: int, cutoff: float) -> list[str]:
        found = difflib.get_close_matches(key(name).lower(), folded, most, cutoff)
        return [folded[one] for one in found]

    ours = [folded[word] for word in synonyms(key(name)) if word in folded]
    hint = "".join(f" Did you mean '{close}'?" for close in ours[:1] or alike(1, cutoff))
    if len(choices) > 30:
        return f"{hint} Nearest of {len(choices)} choices: {', '.join(alike(10, 0.3)) or 'none'}."
    return f"{hint} Choices: {', '.join(choices)}."


def synonyms(name: str) -> tuple[str, ...]:
    """Our words for one of the field's; see `SYNONYMS`."""
    return SYNONYMS.get(name.lower().replace("-", "_"), ())
