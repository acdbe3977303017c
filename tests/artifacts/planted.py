"""Pickles that would do something, if anybody opened them."""

import os
from pathlib import Path


class Planted:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))
