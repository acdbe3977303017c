"""The page of the command line, read off the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from pages import add, cell, code, table

from robustprune.cli.main import parser


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    add(files, config, "reference/cli.md", page())
    return files


def page() -> str:
    """Every command: what it is for, with examples, and its options."""
    top = parser()
    (commands,) = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    summaries = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    rows = [(f"[`{name}`](#{name})", cell(text)) for name, text in summaries.items()]
    exits = (
        "Exit codes: 0 done; 2 the input is at fault, and every problem is named; 1 our fault, or "
        "a soundness alarm; 130 interrupted, and the line that resumes is printed."
    )
    tab = (
        "Commands, options, recipes, names of parts and files are completed at the tab key after "
        '`eval "$(robustprune completion bash)"`, which belongs into `~/.bashrc`; '
        "[other shells](#completion)."
    )
    head = ["# Command line", _text(top.description), table(("command", "what it does"), rows)]
    sections = (_command(name, commands.choices[name]) for name in summaries)
    return "\n\n".join([*head, exits, tab, *sections, ""])


def _command(name: str, command: argparse.ArgumentParser) -> str:
    usage = f"robustprune {name} {_positionals(command)}".strip()
    rows = list(_rows(command))
    options = table(("argument", "meaning"), rows) if rows else "It takes no arguments."
    return f"## {name}\n\n`{usage}`\n\n{_text(command.description)}\n\n{options}"


def _rows(command: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in command._actions:
        if not isinstance(action, argparse._HelpAction):
            yield code(_written(action)), cell(action.help or "")


def _written(action: argparse.Action) -> str:
    """``--seed N``, ``--format {a,b}``, or a positional's name."""
    if not action.option_strings:
        return action.dest
    values = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else None
    value = str(action.metavar or values or action.dest.upper())
    takes_none = action.nargs == 0
    return action.option_strings[-1] if takes_none else f"{action.option_strings[-1]} {value}"


def _positionals(command: argparse.ArgumentParser) -> str:
    names = [a for a in command._actions if not a.option_strings]
    return " ".join(f"[{a.dest}]" if a.nargs == "?" else a.dest.upper() for a in names)


def _text(description: str | None) -> str:
    return f"```text\n{(description or '').strip()}\n```"
