"""Print the JSON Schema of recipes, for editors that complete and check YAML.

  robustprune schema > recipe.schema.json
  # yaml-language-server: $schema=recipe.schema.json      (first line of a recipe)

Editors find the schema by that comment.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add nothing: it takes no arguments."""


def command(arguments: Namespace) -> None:
    """Print the JSON Schema of recipes."""
    from robustprune.recipe.jsonschema import json_schema
    from robustprune.tracking import Console

    Console().info(json.dumps(json_schema(), indent=2, ensure_ascii=False))
