"""``robustprune evaluate``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from robustprune.errors import UsageError
from robustprune.tracking import Console


def command(arguments: Namespace) -> None:
    """Judge a saved network and print its accuracies."""
    from robustprune.artifacts.dense import read_model
    from robustprune.files import write_json
    from robustprune.pipeline.evaluation import evaluate, parts_of
    from robustprune.pipeline.results import measured, shown

    console = Console()
    saved = read_model(arguments.model)
    data, evaluators = parts_of(
        saved.metadata,
        data=arguments.data,
        root=arguments.root,
        evaluators=[evaluator_document(text) for text in arguments.evaluator],
        samples=arguments.samples,
    )
    metrics = evaluate(saved, data, evaluators, seed=arguments.seed, console=console)
    rows = [
        [f"{name} %" if fraction else name, shown(metrics, name), str(metrics[f"{name}_n"])]
        for name, fraction in measured([metrics]).items()
    ]
    console.info(str(arguments.model))
    console.table("± half of a 95 % interval", ["metric", "value", "images"], rows)
    if arguments.json:
        try:
            write_json(arguments.json, {"model": str(arguments.model), "metrics": metrics})
        except OSError as error:
            raise UsageError(f"cannot write {arguments.json}: {error.strerror}.") from None


def evaluator_document(text: str) -> dict[str, Any]:
    """``pgd:eps=8/255,steps=20`` as a recipe would write it."""
    name, _, options = text.partition(":")
    document: dict[str, Any] = {"name": name}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"--evaluator {text}: expected NAME:KEY=VALUE,…; '{option}' has no =.")
        document[key.strip()] = value.strip()
    return document
