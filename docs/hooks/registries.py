"""A page for each registry, and one for backbones and for a recipe's sections.

They are read off the registries when the site is built, as `robustprune list` reads them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from pages import add, cell, code, prose, table

from robustprune.cli.options import Option, options
from robustprune.components import Part
from robustprune.families import FAMILIES, family
from robustprune.models import BACKBONES
from robustprune.recipe import Recipe

_COLUMNS = ("option", "type", "default", "meaning")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name in FAMILIES:
        add(files, config, f"reference/{name}.md", family_page(name))
    add(files, config, "reference/models.md", models_page())
    add(files, config, "reference/recipe.md", recipe_page())
    return files


def family_page(name: str) -> str:
    """Every part of one registry that the package brings."""
    registry = family(name)
    about = inspect.getdoc(importlib.import_module(FAMILIES[name]))
    links = ", ".join(f"[`{part}`](#{part})" for part in registry.names())
    hint = (
        f"`robustprune list {name}` prints the same in a terminal; with `--recipe FILE`, the parts "
        "of your own that the recipe imports, too."
    )
    parts = (_part(part, registry.get(part)) for part in registry.names())
    return "\n\n".join([f"# {name.capitalize()}", about or "", f"{links}.", hint, *parts])


def models_page() -> str:
    """Our backbones, and how any model of timm is named."""
    rows = [
        (
            code(name),
            cell(backbone.summary),
            f"{backbone.smallest}×{backbone.smallest}",
            _source_file("robustprune.models.architectures"),
        )
        for name, backbone in sorted(BACKBONES.items())
    ]
    about = (
        "A recipe's [`model.name`](recipe.md#model) is one of these, or any model that timm knows. "
        "`robustprune list models resnet` prints all whose name contains `resnet`. Images come in "
        "[0, 1]; a network that normalises does so inside."
    )
    columns = ("name", "what it is", "smallest image", "source code")
    return "\n\n".join(["# Backbones", about, table(columns, rows), ""])


def recipe_page() -> str:
    """A recipe's keys, and the options of its sections that are no parts."""
    keys = options(Recipe)
    sections = _sections(keys)
    rows = [(code(o.key), _value(o, sections), *_default_and_meaning(o)) for o in keys]
    about = (
        "What a recipe may say. `robustprune schema` prints the same as JSON Schema, for editors."
    )
    lines = ["# Recipes", about, table(("key", "value", *_COLUMNS[2:]), rows)]
    for section in sections:
        title = " and ".join(f"`{option.key}:`" for option in section)
        lines += [f"## {title} {{#{section[0].key}}}", _table(section[0].group)]
    return "\n\n".join([*lines, ""])


def _sections(keys: list[Option]) -> list[list[Option]]:
    """The keys that take a group of options; those that take the same ones stand together."""
    sections: dict[str, list[Option]] = {}
    for option in keys:
        if option.group:
            sections.setdefault(repr(option.group), []).append(option)
    return list(sections.values())


def _value(option: Option, sections: list[list[Option]]) -> str:
    """A link to the options that a recipe's key takes, or its type."""
    places = [section[0].key for section in sections if option in section]
    return f"[options](#{places[0]})" if places else _kind(option)


def _part(name: str, part: type[Part]) -> str:
    where = _source_file(part.__module__)
    about = prose(inspect.cleandoc(part.__doc__ or ""))
    facts = {**part.facts(), "source code": where}
    lines = "  \n".join(f"{key.capitalize()}: {fact}" for key, fact in facts.items())
    rows = _table(options(part)) if part.model_fields else "It has no options."
    return f"## {name}\n\n{about}\n\n{lines}\n\n{rows}\n"


def _table(described: list[Option]) -> str:
    rows = ((code(key), _kind(o), *_default_and_meaning(o)) for key, o in _flat(described))
    return table(_COLUMNS, rows)


def _default_and_meaning(option: Option) -> tuple[str, str]:
    return "**required**" if option.required else code(option.default), cell(option.meaning)


def _flat(described: list[Option], prefix: str = "") -> Iterator[tuple[str, Option]]:
    """Each option and, below a group, those of the group: ``ramp``, ``ramp.epochs``, …."""
    for option in described:
        yield prefix + option.key, option
        yield from _flat(option.group, f"{prefix}{option.key}.")


def _kind(option: Option) -> str:
    """A link to the registry that names its parts, or its type."""
    return f"[{option.family}]({option.family}.md)" if option.family else cell(option.kind)


def _source_file(module: str) -> str:
    return f"`{module.replace('.', '/')}.py`"
