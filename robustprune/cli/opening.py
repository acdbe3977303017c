"""From what is typed for a network to the network: a file of ours, a state dict, or a timm name."""

from __future__ import annotations

from argparse import Namespace
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
    from robustprune.artifacts.reading import read_model

    path: Path = arguments.model
    if arguments.arch is None and is_name(path):
        return _pretrained(str(path), arguments)
    if arguments.arch is None:
        return read_model(path)
    return read_model(path, _resolved(_options(arguments.arch), arguments))


def dataset(name: str | None, root: Path | None) -> Dataset | None:
    """The dataset that is typed, if one is."""
    if name is None:
        return None
    from robustprune import datasets

    return datasets.create(name, **({} if root is None else {"root": root}))


def _options(text: str) -> ModelOptions:
    """``resnet50``, or as a recipe writes its model: ``{name: resnet50, num_classes: 10}``."""
    from robustprune.models import ModelOptions
    from robustprune.parts import build
    from robustprune.recipe.reading import NotYamlError, read_yaml

    try:
        reading = read_yaml(text)
        if reading.problems:
            raise InvalidError(reading.problems)
        options = build(ModelOptions, reading.values)
    except NotYamlError as error:
        raise UsageError(f"--arch {text}: neither a name nor a mapping: {error}.") from None
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
    if data is not None and data.num_classes != classes:
        raise UsageError(
            f"model '{name}': its pretrained weights tell {classes} classes apart, and "
            f"'{arguments.data}' has {data.num_classes}. Train a last layer for them: a recipe "
            f"with 'model: {{name: {name}, weights: pretrained}}'."
        )
    options = ModelOptions(name=name, num_classes=classes)
    architecture = _resolved(options, arguments)
    model = create_model(**architecture)
    pretrained.load_into(model, architecture)
    return SavedModel(model.eval(), {}, {"model": architecture, "weights": pretrained.NAME})
