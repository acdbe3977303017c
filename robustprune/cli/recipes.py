"""List the recipes that come with robustprune, or copy one to edit it.

Every command that takes a recipe takes these names, too, and so does `extends:` in a recipe.

  robustprune recipes                     all: data, network, prunable weights, what a run costs
  robustprune recipes vgg16               those with this in their name, data, network or title
  robustprune recipes copy quickstart     to quickstart.yaml, which wins over the packaged one here
  robustprune recipes copy paper/cifar10_vgg16_adversarial my.yaml
  robustprune show quickstart             one with every option, defaults included

Cost: the networks that a run makes, and the epochs that it trains in all of them together.
"""

from __future__ import annotations

import re
import textwrap
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.cli.arguments import option, writing
from robustprune.errors import UsageError

if TYPE_CHECKING:  # torch comes with it
    from robustprune.recipe import Recipe

_USAGE = "Write `robustprune recipes [WORD]`, or `robustprune recipes copy NAME [FILE]`."
_WIDEST = 90


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "only those that this word is about; or: copy NAME [FILE]"
    parser.add_argument("asked", nargs="*", metavar="WORD", help=text)
    option(parser, "--force", "let copy overwrite FILE")


def command(arguments: Namespace) -> None:
    """List recipes, or copy one."""
    match arguments.asked:
        case ["copy", name]:
            _copy(name, Path(f"{Path(name).stem}.yaml"), force=arguments.force)
        case ["copy", name, file]:
            _copy(name, Path(file), force=arguments.force)
        case [] | [_] if arguments.asked != ["copy"]:
            _list(*arguments.asked)
        case _:
            raise UsageError(f"recipes {' '.join(arguments.asked)}: not understood. {_USAGE}")


def _list(word: str = "") -> None:
    from robustprune.recipe import load_recipe, packaged
    from robustprune.recipe.document import read_extended
    from robustprune.tracking import Console

    rows = []
    for name in packaged.names():
        path = packaged.folder() / f"{name}.yaml"
        values, title = read_extended(path).values, _title(path.read_text(encoding="utf-8"))
        about = [name, values["data"]["name"], values["model"]["name"]]
        if word.lower() in " ".join([*about, title]).lower():
            rows.append([*about, *_costs(load_recipe(path)), title])
    if not rows:
        raise UsageError(f"no recipe is about '{word}'.{packaged.near(word)}")
    columns = ["name", "data", "network", "weights", "networks", "epochs", "what it is"]
    Console().table(f"recipes in {packaged.folder()}", columns, rows)


def _title(text: str) -> str:
    """Return the first sentence of a recipe's header."""
    header = "\n".join(line.lstrip("# ") for line in text.partition("\nname:")[0].splitlines())
    paragraph = " ".join(header.partition("\n\n")[0].split())
    sentence = re.split(r"(?<!et al)\.\s(?=[A-Z])", paragraph)[0].removesuffix(".")
    return textwrap.shorten(sentence, _WIDEST, placeholder=" …")


def _costs(recipe: Recipe) -> list[str]:
    """Return the dense network's prunable weights, the number of networks, and their epochs."""
    from robustprune.pipeline.networks import networks

    made = networks(recipe)
    stages = [stage for network in made for stage in network.stages if stage.options]
    epochs = sum(stage.options.epochs - stage.start for stage in stages if stage.options)
    return [_weights(recipe), str(len(made)), f"{epochs:,}"]


def _weights(recipe: Recipe) -> str:
    """Return the number of prunable weights, counted without memory for them; – where data asks."""
    import torch

    from robustprune.masking import prunable_layers
    from robustprune.models import create_model

    data: Any = recipe.data
    try:
        sizes = {"in_chans": data.channels, "image_size": data.image_size}
        architecture = recipe.model.resolved(num_classes=data.num_classes, **sizes)
    except UsageError:  # an imagefolder's classes are its folders
        return "–"
    with torch.device("meta"):
        layers = prunable_layers(create_model(**architecture))
    return f"{sum(layer.weight.numel() for layer in layers.values()):,}"


def _copy(name: str, file: Path, *, force: bool) -> None:
    """Write a packaged recipe to a file, from which what it extends is found as well."""
    from robustprune.files import write_text
    from robustprune.recipe import packaged
    from robustprune.tracking import Console

    if (source := packaged.packaged(name)) is None:
        raise UsageError(f"no recipe '{name}' comes with robustprune.{packaged.near(name)}")
    file = file / source.name if file.is_dir() else file
    if file.exists() and not force:
        raise UsageError(f"{file} is there already. Name another file, or overwrite it: --force.")
    with writing(file):
        write_text(file, packaged.movable(source))
    Console().info(f"written to {file}. Try it out: robustprune run {file} --max-steps 2")
