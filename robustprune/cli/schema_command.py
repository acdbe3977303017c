"""``robustprune schema``."""

from __future__ import annotations

import json
from argparse import Namespace

from robustprune.recipe.jsonschema import json_schema


def command(arguments: Namespace) -> None:
    """Print the JSON Schema of recipes."""
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
