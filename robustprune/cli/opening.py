"""From what is typed for a network to the network: a file of ours, a state dict, or a timm name."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.errors import InvalidError, Problem, UsageError

if TYPE_CHECKING:
    from robustprune.artifacts.saved import SavedModel
    from robustprune.datasets import Dataset
    from robustprune.models import ModelOptions


def open_model(arguments: Namespace) -> SavedModel:
    """The network that a command is about.

    A plain state dict needs ``--arch``; what that leaves open follows from ``--data``. A name of
    timm's that is no file means its pretrained weights.

    Args:
        arguments: model, arch, data, root.

    Raises:
        UsageError: the file, the architecture or the dataset is at fault.
    """
    saved = _opened(arguments)
    if getattr(arguments, "classes", None) is None:
        return saved
    return replace(saved, metadata={**saved.metadata, "classes": _classes(arguments.classes)})


def _opened(arguments: Namespace) -> SavedModel:
    from robustprune.artifacts.reading import read_model

    path: Path = arguments.model
    if arguments.arch is None and is_name(path):
        return _pretrained(str(path), arguments)
    if arguments.arch is None:
        return read_model(path)
    return read_model(path, _resolved(_options(arguments.arch), arguments))


def _classes(text: str) -> list[str]:
    """A file of names, a set of ImageNet's that timm knows, or names with commas between them."""
    from robustprune.datasets.classes import check_names, read_names
    from robustprune.models import pretrained

    if os.path.isfile(text):
        return list(read_names(Path(text)))
    names = [name.strip() for name in text.split(",")]
    if len(names) == 1 and (known := pretrained.names_of(text)):
        return known
    try:
        check_names(names)
    except UsageError as error:
        raise UsageError(
            f"--classes {text}: {error}. Write a,b,c, or a file with a name a line, or imagenet-1k."
        ) from None
    return names


def dataset(text: str | None, root: Path | None) -> Dataset | None:
    """The dataset that is typed, if one is."""
    document = data_document(text)
    if document is None:
        return None
    from robustprune import datasets

    fields = {**document, **({} if root is None else {"root": root})}
    return datasets.create(fields.pop("name"), **fields)


def data_document(text: str | None) -> dict[str, Any] | None:
    """``imagefolder``, or as a recipe writes its data: ``{name: imagefolder, size: 64}``."""
    if text is None:
        return None
    values = _read("--data", text)
    document = {"name": values} if isinstance(values, str) else values
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise UsageError(f"--data {text}: expected a name, or {{name: …, option: …}}.")
    return document


def _read(option: str, text: str) -> Any:
    from robustprune.recipe.reading import NotYamlError, read_yaml

    try:
        reading = read_yaml(text)
    except NotYamlError as error:
        raise UsageError(f"{option} {text}: neither a name nor a mapping: {error}.") from None
    if reading.problems:
        raise InvalidError(Problem((option, *p.place), p.message) for p in reading.problems)
    return reading.values


def _options(text: str) -> ModelOptions:
    """``resnet50``, or as a recipe writes its model: ``{name: resnet50, num_classes: 10}``."""
    from robustprune.models import ModelOptions
    from robustprune.parts import build

    values = _read("--arch", text)
    try:
        options = build(ModelOptions, values)
    except InvalidError as error:
        raise InvalidError(
            Problem(("--arch", *p.place), p.message) for p in error.problems
        ) from None
    if options.weights is not None:
        raise UsageError(
            f"--arch {text}: 'weights' is an option of recipes. Here the file of weights is what "
            "the command is given."
        )
    return options


def _resolved(options: ModelOptions, arguments: Namespace) -> dict[str, Any]:
    data = dataset(arguments.data, arguments.root)
    if options.num_classes is None and getattr(arguments, "classes", None) is not None:
        options = options.model_copy(update={"num_classes": len(_classes(arguments.classes))})
    if data is not None:
        return options.resolved(
            num_classes=data.num_classes, in_chans=data.channels, image_size=data.image_size
        )
    if options.num_classes is None:
        raise UsageError(
            f"--arch {options.name}: for how many classes? Name its dataset with --data, or say "
            f"--arch '{{name: {options.name}, num_classes: 10}}'."
        )
    channels = options.in_chans or 3
    return options.resolved(num_classes=options.num_classes, in_chans=channels)


def is_name(path: Path) -> bool:
    """Whether it can only be the name of a network of timm's."""
    from robustprune.artifacts.reading import is_model_file

    if path.exists() or len(path.parts) != 1 or is_model_file(path):
        return False
    from robustprune.models import check_name

    try:
        check_name(str(path))
    except UsageError:
        return False
    return True


def _pretrained(name: str, arguments: Namespace) -> SavedModel:
    from robustprune.artifacts.saved import SavedModel
    from robustprune.models import ModelOptions, create_model, pretrained

    classes = pretrained.num_classes(name)
    if classes is None:
        raise UsageError(
            f"model '{name}' has no pretrained weights. Name a file of weights, and --arch {name}."
        )
    data = dataset(arguments.data, arguments.root)
    names = pretrained.class_names(name)
    known = names and data is not None and data.registered_name == "imagefolder"
    if data is not None and not known and data.num_classes != classes:
        raise UsageError(
            f"model '{name}': its pretrained weights tell {classes} classes apart, and "
            f"'{arguments.data}' has {data.num_classes}. Train a last layer for them: a recipe "
            f"with 'model: {{name: {name}, weights: pretrained}}'."
        )
    options = ModelOptions(name=name, num_classes=classes)
    architecture = _resolved(options, arguments)
    model = create_model(**architecture)
    pretrained.load_into(model, architecture)
    about = {"model": architecture, "weights": pretrained.NAME, "classes": names}
    return SavedModel(model.eval(), {}, about)
