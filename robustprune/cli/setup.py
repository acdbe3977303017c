"""Install torchattacks and auto-LiRPA, which attacks and bounds need, where they are missing.

Their own pins cannot be resolved beside the versions that robustprune runs with, so they are
installed without them: `--no-deps`. It goes into the Python that runs this command, by pip, or by
uv where there is no pip.

  robustprune setup               says what it does, and does it
  robustprune setup --dry-run     says it only
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from argparse import ArgumentParser, Namespace
from pathlib import Path

from robustprune.cli.arguments import option
from robustprune.errors import UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    option(parser, "--dry-run", "print the command that would be run, and do nothing")


def command(arguments: Namespace) -> None:
    """Install what is missing."""
    from robustprune.adapters import LIBRARIES
    from robustprune.components import is_installed
    from robustprune.tracking import Console

    console = Console()
    missing = [name for module, name in LIBRARIES.items() if not is_installed(module)]
    if not missing:
        console.info(f"{' and '.join(LIBRARIES.values())} are installed in {sys.prefix}.")
        return
    line = shlex.join(words := _installer(missing))
    console.info(f"{line}\n  into {sys.prefix}")
    if arguments.dry_run:
        return
    if why := _refused(words):
        raise UsageError(
            f"{why}. Type the line above by hand where you may, or make an environment of your own "
            "(python -m venv .venv) and install robustprune there."
        )
    if code := subprocess.run(words, check=False).returncode:
        raise UsageError(f"{words[0]} ended with exit code {code}; its own lines say why.")
    console.info("installed. Try it: robustprune run quickstart")


def _installer(names: list[str]) -> list[str]:
    """Return the command that installs distributions into this Python."""
    if importlib.util.find_spec("pip") is None and (uv := shutil.which("uv")):
        return [uv, "pip", "install", "--python", sys.executable, "--no-deps", *names]
    return [sys.executable, "-m", "pip", "install", "--no-deps", *names]


def _refused(words: list[str]) -> str:
    """Return why the command would fail; empty if it need not."""
    if "uv" not in Path(words[0]).name and importlib.util.find_spec("pip") is None:
        return f"there is neither pip in {sys.prefix} nor uv on the path"
    marker = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    allowed = os.environ.get("PIP_BREAK_SYSTEM_PACKAGES") == "1"
    if sys.prefix == sys.base_prefix and marker.exists() and not allowed:
        return f"{sys.prefix} is managed by the system, and pip may not change it"
    return ""
