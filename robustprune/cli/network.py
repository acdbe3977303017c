"""Networks as they are named on the command line: a model file, a state dict, or a timm name.

Commands import this when they are called: torch comes with it.
"""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustprune import datasets
from robustprune.artifacts.reading import is_model_file, read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import kept_weights
from robustprune.cli.hints import check_model_path
from robustprune.components import build
from robustprune.datasets.files import check_names, read_names
from robustprune.errors import InvalidError, Problem, UsageError
from robustprune.masking import table
from robustprune.models import ModelOptions, check_name, create_model, pretrained
from robustprune.recipe.reading import NotYamlError, read_yaml


def open_model(arguments: Namespace) -> SavedModel:
    """Return the network that a command is about.

    A plain state dict needs ``--arch``; what that leaves open follows from ``--data``. A name of
    timm's that is no file means its pretrained weights.

    Args:
        arguments: ``model``, and those of `robustprune.cli.arguments.add_network`.

    Raises:
        UsageError: the file, the architecture or the dataset is at fault.
    """
    path: Path = arguments.model
    check_model_path(path)
    classes = None if arguments.classes is None else _class_names(arguments.classes)
    if arguments.arch is not None:
        options = build(ModelOptions, _parse("--arch", arguments.arch), ("--arch",))
        if options.weights is not None:
            raise UsageError(
                f"--arch {arguments.arch}: 'weights' is an option of recipes. Here the file of "
                "weights is what the command is given."
            )
        if classes is not None and options.num_classes is None:
            options = options.model_copy(update={"num_classes": len(classes)})
        data = dataset(arguments.data, arguments.root)
        saved = read_model(path, _architecture(options, data))
    elif _is_timm_name(path):
        saved = _pretrained(str(path), dataset(arguments.data, arguments.root))
    else:
        saved = read_model(path)
    if classes is None:
        return saved
    return replace(saved, metadata={**saved.metadata, "classes": classes})


def dataset(text: str | None, root: Path | None) -> datasets.Dataset | None:
    """Return the dataset of ``--data`` and ``--root``, if one is named."""
    if (fields := data_document(text)) is None:
        return None
    if root is not None:
        fields["root"] = root
    return datasets.create(fields.pop("name"), **fields)


def data_document(text: str | None) -> dict[str, Any] | None:
    """Return ``imagefolder`` or ``{name: imagefolder, size: 64}`` as a recipe would hold it."""
    if text is None:
        return None
    values = _parse("--data", text)
    document = {"name": values} if isinstance(values, str) else values
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise UsageError(f"--data {text}: expected a name, or {{name: …, option: …}}.")
    return document


def layer_table(saved: SavedModel) -> table.Table:
    """Return columns and rows: what is kept of each prunable layer, and of all of them."""
    return table.layer_table(kept_weights(saved))


def _parse(option: str, text: str) -> Any:
    try:
        reading = read_yaml(text)
    except NotYamlError as error:
        raise UsageError(f"{option} {text}: {error}") from None
    if reading.problems:
        raise InvalidError(Problem((option, *p.place), p.message) for p in reading.problems)
    return reading.values


def _architecture(options: ModelOptions, data: datasets.Dataset | None) -> dict[str, Any]:
    """Return complete arguments of `create_model`."""
    if data is not None:
        return options.resolved(
            num_classes=data.num_classes, in_chans=data.channels, image_size=data.image_size
        )
    if options.num_classes is None:
        raise UsageError(
            f"--arch {options.name}: for how many classes? Name its dataset with --data, or say "
            f"--arch '{{name: {options.name}, num_classes: 10}}'."
        )
    return options.resolved(num_classes=options.num_classes, in_chans=options.in_chans or 3)


def _class_names(text: str) -> list[str]:
    """Read a file of names, a set of ImageNet's that timm knows, or names with commas between."""
    if os.path.isfile(text):
        return list(read_names(Path(text)))
    names = [name.strip() for name in text.split(",")]
    if len(names) == 1 and (known := pretrained.names_of(text)):
        return known
    try:
        check_names(names)
    except UsageError as error:
        raise UsageError(
            f"--classes {text}: {error}. Write a,b,c, or a file with one per line, or imagenet-1k."
        ) from None
    return names


def _is_timm_name(path: Path) -> bool:
    if path.exists() or len(path.parts) != 1 or is_model_file(path):
        return False
    try:
        check_name(str(path))
    except UsageError:
        return False
    return True


def _pretrained(name: str, data: datasets.Dataset | None) -> SavedModel:
    classes = pretrained.num_classes(name)
    if classes is None:
        raise UsageError(
            f"model '{name}' has no pretrained weights. Name a file of weights, and --arch {name}."
        )
    names = pretrained.class_names(name)
    by_name = names and data is not None and data.registered_name == "imagefolder"
    if data is not None and not by_name and data.num_classes != classes:
        raise UsageError(
            f"model '{name}': its pretrained weights tell {classes} classes apart, and "
            f"'{data.registered_name}' has {data.num_classes}. Train a last layer for them: a "
            f"recipe with 'model: {{name: {name}, weights: pretrained}}'."
        )
    architecture = _architecture(ModelOptions(name=name, num_classes=classes), data)
    model = create_model(**architecture)
    pretrained.load_into(model, architecture)
    about = {"model": architecture, "weights": pretrained.NAME, "classes": names}
    return SavedModel(model.eval(), {}, about)
