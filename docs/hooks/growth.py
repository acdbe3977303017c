"""Tables of `benchmarks/scaling.py`, put into the page where it asks for them.

``<!-- growth: time -->`` stands for the recorded table of that name, and ``<!-- growth: about -->``
for the command that made them all, and the machine.
"""

from __future__ import annotations

import json
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pages import table
from recorded import RESULTS

RECORDED = RESULTS / "scaling" / "scaling.json"
_ASKED = re.compile(r"^<!-- growth: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what is asked for in its place."""
    return _ASKED.sub(lambda match: growth(match[1]), markdown)


def growth(name: str) -> str:
    """A recorded table, or what is to be known of all of them.

    Raises:
        ValueError: no table is recorded by that name.
    """
    document = json.loads(RECORDED.read_text(encoding="utf-8"))
    if name == "about":
        versions = ", ".join(f"{key} {value}" for key, value in document["environment"].items())
        return f"`{document['command']}`: {versions}. {document['note']}".strip()
    found = document["tables"].get(name)
    if found is None:
        raise ValueError(
            f"no table '{name}' is recorded; there are {', '.join(document['tables'])}"
        )
    return table(found["columns"], found["rows"], numbers=found["numbers"])
