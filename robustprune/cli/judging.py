"""What `evaluate`, `certify` and `verify` share: a saved network is judged, and it is told how."""

from __future__ import annotations

import shlex
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.cli.launching import is_main, launch, processes
from robustprune.cli.outputs import writing
from robustprune.cli.replies import DIED, ProcessError
from robustprune.errors import InterruptedRun, SoundnessError
from robustprune.stopping import stoppable
from robustprune.tracking import Console, Silent

if TYPE_CHECKING:
    from robustprune.pipeline.evaluation import Judgement
    from robustprune.pipeline.state import StateFolder

Metadata = dict[str, Any]
Documents = Callable[[Metadata], list[dict[str, Any]]]
"""From a model file's metadata to evaluators, as recipes write them."""


def judge_saved(arguments: Namespace, documents: Documents) -> None:
    """Judge a network by some evaluators, print its numbers, and write what is asked for.

    Args:
        arguments: model, arch, data, root, samples, seed, json, images, state, words.
        documents: what to judge by.

    Raises:
        UsageError: a file, a name or an option is at fault; nothing was computed.
        SoundnessError: an attack broke what a certificate verified; everything is written.
        InterruptedRun: SIGINT or SIGTERM arrived, and what was judged is kept.
    """
    with stoppable():
        if (count := processes(arguments)) > 1:
            _launch(arguments, count)
        else:
            _judge(arguments, documents)


def _judge(arguments: Namespace, documents: Documents) -> None:
    from robustprune.cli.opening import data_document, open_model
    from robustprune.pipeline import soundness
    from robustprune.pipeline.evaluation import evaluate, parts_of

    console = Console() if is_main() else Silent()
    saved = open_model(arguments)
    data, evaluators = parts_of(
        saved.metadata,
        data=data_document(arguments.data),
        root=arguments.root,
        evaluators=documents(saved.metadata),
        samples=arguments.samples,
    )
    if is_main():
        _check_outputs(arguments)
    with _kept(arguments) as state:
        judgement = evaluate(
            saved, data, evaluators, seed=arguments.seed, console=console, state=state
        )
        if judgement.is_main:
            _show(console, arguments.model, judgement.metrics)
            _write(arguments, judgement)
        if judgement.is_main and state is not None:
            state.remove(evaluator.metric for evaluator in evaluators)
    if judgement.alarms and is_main():
        raise SoundnessError(soundness.verdict({str(arguments.model): judgement.alarms}))


@contextmanager
def _kept(arguments: Namespace) -> Iterator[StateFolder | None]:
    """Where batches are kept, if that is asked for; an interruption then says how to go on."""
    from robustprune.pipeline.state import StateFolder

    if arguments.state is None:
        yield None
        return
    try:
        with StateFolder(arguments.state) as state:
            yield state
    except KeyboardInterrupt:
        raise InterruptedRun(_resume_line(arguments)) from None


def _launch(arguments: Namespace, count: int) -> None:
    """Let several processes judge, and say how to go on if they are stopped."""
    try:
        launch(
            [*arguments.words, "--processes", "1"],
            processes=count,
            restarts=arguments.restarts or 0,
        )
    except KeyboardInterrupt:
        if arguments.state is None:
            raise
        raise InterruptedRun(_resume_line(arguments)) from None
    except ProcessError as error:
        if error.reply.kind == InterruptedRun.__name__:
            raise InterruptedRun(_resume_line(arguments)) from None
        if error.reply.kind == DIED:
            kept = f" {_resume_line(arguments)}" if arguments.state is not None else ""
            text = f"error: {error.reply.text}{kept}"
            raise ProcessError(replace(error.reply, text=text)) from None
        raise


def _resume_line(arguments: Namespace) -> str:
    return f"Resume with: {shlex.join(['robustprune', *arguments.words])}"


def given(arguments: Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were typed, so that the evaluator's defaults hold for the rest."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def trained_with(metadata: Metadata, option: str) -> float | None:
    """An option of the objective, if the file names one that is a number above 0."""
    value = _objective(metadata).get(option)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if value > 0 else None


def trained_norm(metadata: Metadata) -> str:
    """The norm of the objective's ball. Without the option it is l2 where there is noise."""
    objective = _objective(metadata)
    return str(objective.get("norm", "l2" if "sigma" in objective else "linf"))


def _objective(metadata: Metadata) -> dict[str, Any]:
    objective = metadata.get("objective")
    return objective if isinstance(objective, dict) else {}


def _show(console: Console, model: Path, metrics: dict[str, Any]) -> None:
    from robustprune.evaluators.accuracy import measured
    from robustprune.pipeline.results import shown

    rows = [
        [f"{name} %" if fraction else name, shown(metrics, name), str(metrics[f"{name}_n"])]
        for name, fraction in measured([metrics]).items()
    ]
    console.info(str(model))
    console.table("± half of a 95 % interval", ["metric", "value", "images"], rows)


def _check_outputs(arguments: Namespace) -> None:
    """Make sure that what is asked for can be written before anything is computed for it."""
    from robustprune.pipeline.images import check_ending

    if arguments.images is not None:
        check_ending(arguments.images)
    for path in filter(None, (arguments.json, arguments.images)):
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent):
                pass


def _write(arguments: Namespace, judgement: Judgement) -> None:
    from robustprune.files import write_json

    document: dict[str, Any] = {"model": str(arguments.model), "metrics": judgement.metrics}
    if judgement.alarms:
        document["alarms"] = judgement.alarms
    if judgement.dead is not None:
        document["dead"] = judgement.dead
    if arguments.json is not None:
        with writing(arguments.json):
            write_json(arguments.json, document)
    if arguments.images is not None:
        with writing(arguments.images):
            judgement.images.write(arguments.images)
