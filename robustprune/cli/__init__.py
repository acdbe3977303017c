"""The command line.

Exit 0: done; 2: the user's input; 1: our fault, or a soundness alarm; 130: interrupted.
"""

from __future__ import annotations

from robustprune.cli.main import main

__all__ = ["main"]
