"""Evaluate saved networks: the work that `evaluate`, `certify` and `verify` share."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from robustprune.cli import typed
from robustprune.cli.arguments import (
    MODEL,
    add_imports,
    add_network,
    add_processes,
    check_writable,
    option,
    writing,
)
from robustprune.cli.launching import is_main, launch, processes
from robustprune.cli.outcome import DIED, INTERRUPTED, CommandError, launched
from robustprune.errors import InterruptedRun, SoundnessError, UsageError
from robustprune.files import write_json
from robustprune.stopping import stoppable

if TYPE_CHECKING:  # heavy: --help imports this file
    from robustprune.pipeline.evaluate import Evaluation
    from robustprune.tracking import Console

Metadata = dict[str, Any]
Documents = Callable[[Metadata], list[dict[str, Any]] | None]
"""Makes evaluators, as recipes write them, of a file's metadata; None: those of its recipe."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that `evaluate`, `certify` and `verify` share."""
    parser.add_argument("models", type=typed.path, nargs="+", metavar="MODEL", help=MODEL)
    option(parser, "--samples N", "only the first N images")
    option(parser, "--batch-size N", "images at once (default: as the evaluators say)")
    option(parser, "--seed N", "another seed than the recipe's", type=int)
    option(parser, "--threads N", "CPU threads of each process (default: as many as are idle)")
    text = "default: a GPU if there is one"
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help=text)
    text = "sparse kernels on CPUs (default: auto, of large networks where they are faster)"
    parser.add_argument("--sparse", choices=["auto", "on", "off"], default="auto", help=text)
    add_processes(parser)
    add_network(parser)
    add_imports(parser)
    option(parser, "--json FILE", "write the numbers there too")
    text = "write the results of each image there, as .csv or .parquet; of one model"
    option(parser, "--images FILE", text)
    text = "keep finished batches there; the same command goes on where it was stopped"
    option(parser, "--state DIR", text)


def evaluate_files(
    arguments: Namespace, documents: Documents, *, measures: list[dict[str, Any]] | None = None
) -> None:
    """Evaluate saved networks, print their numbers, and write what is asked for.

    Args:
        arguments: those of `add_arguments`, and words.
        documents: what to judge by.
        measures: what to measure, as recipes write it.

    Raises:
        UsageError: a file, a name or an option is at fault; nothing was computed.
        SoundnessError: an attack broke what a certificate verified; everything is written.
        InterruptedRun: SIGINT or SIGTERM arrived, and what was judged is kept.
    """
    with stoppable():
        try:
            if (count := processes(arguments)) > 1:
                words = [*arguments.words, "--processes", "1"]
                launch(words, processes=count, restarts=arguments.restarts or 0)
            else:
                _evaluate(arguments, documents, measures or [])
        except KeyboardInterrupt:
            _interrupted(arguments)
        except CommandError as error:
            if error.outcome.code == INTERRUPTED:
                _interrupted(arguments)
            if error.outcome.kind == DIED and arguments.state is not None:
                text = f"error: {error.outcome.text} Resume with: {_command_line(arguments)}"
                raise CommandError(replace(error.outcome, text=text)) from None
            raise


def given(arguments: Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were typed, so that the evaluator's defaults hold for the rest."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def trained_with(metadata: Metadata, option: str, *, norm: str | None = None) -> float | None:
    """An option of the objective, if it is a number above 0, and its ball of the norm if named."""
    objective = metadata.get("objective")
    options = objective if isinstance(objective, dict) else {}
    usual = "l2" if "sigma" in options else "linf"  # balls around noise are round
    if norm not in (None, options.get("norm", usual)):
        return None
    value: Any = options.get(option)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and value > 0 else None


def _evaluate(arguments: Namespace, documents: Documents, measures: list[dict[str, Any]]) -> None:
    from robustprune.pipeline.evaluate import create_part, evaluate_saved
    from robustprune.pipeline.evaluation_state import state_folder
    from robustprune.pipeline.sanity import alarm_text
    from robustprune.recipe import ComputeOptions
    from robustprune.tracking import Console, Silent

    console = Console() if is_main() else Silent()
    measured = [create_part("measures", document) for document in measures]
    tasks = {str(path): _task(path, arguments, documents) for path in arguments.models}
    names = {  # where batches are kept: of several networks each has its own
        (path, part.metric): part.metric if len(tasks) == 1 else f"{number}-{part.metric}"
        for number, (path, (_, _, parts)) in enumerate(tasks.items())
        for part in parts
    }
    choices = {path: f".sparse-{number}.json" for number, path in enumerate(tasks)}
    state: Path | None = arguments.state
    if is_main():
        _check_outputs(arguments)
    written = [*names.values(), *choices.values()]
    with state_folder(state, written) if state and is_main() else nullcontext():
        found = evaluate_saved(
            tasks,
            seed=arguments.seed,
            console=console,
            measures=measured,
            options=ComputeOptions(
                threads=arguments.threads, device=arguments.device, sparse=arguments.sparse
            ),
            kept=None if state is None else lambda *name: state / names[name],
            choices=None if state is None else lambda path: state / choices[path],
        )
        if is_main():
            _show(console, found)
            _write(arguments, found)
    alarms = {path: one.alarms for path, one in found.items() if one.alarms}
    if alarms and is_main():
        raise SoundnessError(alarm_text(alarms))


def _task(path: Path, arguments: Namespace, documents: Documents) -> Any:
    """Read a network, and find its dataset and its evaluators; a fault names the file."""
    from robustprune.cli.network import data_document, open_model
    from robustprune.pipeline.evaluate import parts_of

    saved = open_model(Namespace(**{**vars(arguments), "model": path}))
    try:
        data, evaluators = parts_of(
            saved.metadata,
            data=data_document(arguments.data),
            root=arguments.root,
            evaluators=documents(saved.metadata),
            samples=arguments.samples,
            batch_size=arguments.batch_size,
        )
    except UsageError as error:
        if len(arguments.models) == 1:
            raise
        raise UsageError(f"{path}: {error}") from None
    return saved, data, evaluators


def _interrupted(arguments: Namespace) -> NoReturn:
    """Say how to go on, or how it would have been possible."""
    line = _command_line(arguments)
    if arguments.state is not None:
        raise InterruptedRun(f"Resume with: {line}") from None
    if is_main() and not launched():
        from robustprune.tracking import Console

        text = "nothing is kept of what was judged. Where it may be stopped, type"
        Console().warn(f"{text}: {line} --state DIR")
    raise KeyboardInterrupt from None


def _command_line(arguments: Namespace) -> str:
    return shlex.join(["robustprune", *arguments.words])


def _show(console: Console, found: Mapping[str, Evaluation]) -> None:
    """Print a row for each model; of a single one a row for each number."""
    from robustprune import measures
    from robustprune.evaluators.accuracy import measured
    from robustprune.pipeline.results import metric_text

    names = measured([one.metrics for one in found.values()])
    heads = [f"{name} %" if fraction else name for name, fraction in names.items()]
    rows = [
        [path, *(metric_text(one.metrics, name) for name in names)] for path, one in found.items()
    ]
    columns = ["model", *heads]
    if len(rows) == 1:
        ((path, *cells),), (one,) = rows, found.values()
        console.info(path)
        counts = [str(one.metrics[f"{name}_n"]) for name in names]
        columns = ["metric", "value", "images"]
        rows = [[*row] for row in zip(heads, cells, counts, strict=True)]
    if names:
        console.table("± half of a 95 % interval", columns, rows)
    if any(one.measures for one in found.values()):
        console.table(*measures.table({p: one.measures for p, one in found.items()}))


def _check_outputs(arguments: Namespace) -> None:
    """Make sure that what is asked for can be written before anything is computed for it."""
    from robustprune.pipeline.images import check_ending

    if arguments.images is not None:
        check_ending(arguments.images)
        if len(arguments.models) > 1:
            raise UsageError("--images is for one model. Name one, or leave --images out.")
    for path in filter(None, (arguments.json, arguments.images)):
        check_writable(path)


def _write(arguments: Namespace, found: Mapping[str, Evaluation]) -> None:
    if arguments.json is not None:
        entries = [{"model": path, **one.entry} for path, one in found.items()]
        with writing(arguments.json):
            write_json(arguments.json, entries[0] if len(entries) == 1 else entries)
    if arguments.images is not None:
        (one,) = found.values()
        with writing(arguments.images):
            one.images.write(arguments.images)
