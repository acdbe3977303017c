"""auto-LiRPA itself, made to run with the torch and numpy that are installed.

Version 0.3, the newest that package indexes have, was written for torch 1.12 and numpy 1: four
names that it uses are gone or have changed. They are put back before its first use, for that
version only; newer ones (0.7.1 was tried) run as they are.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

from robustprune.adapters import load

DEEP = 20_000
"""Calls within each other that the library may make."""


def lirpa() -> ModuleType:
    """The library, imported.

    Raises:
        MissingDependencyError: it is not installed; the message holds the line that installs it.
    """
    imported = sys.modules.get("auto_LiRPA")
    if imported is not None:
        return imported
    old = _is_old()
    if old:
        _put_back_names()
    # torch's warning that there is no GPU, and what our errors say themselves
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings(record=True), recursion():  # it changes the process's filters
        library = load("auto_LiRPA")
    logging.getLogger("auto_LiRPA.utils").setLevel(logging.CRITICAL)
    if old:
        library.BoundedModule._named_members = _named_members(library.BoundedModule)
    base = importlib.import_module("auto_LiRPA.operators.base").Bound
    if hasattr(base, "get_bias"):
        base.get_bias = _get_bias(base.get_bias)
    return library


@contextmanager
def recursion() -> Iterator[None]:
    """Let the library recurse as deep as it must: a few calls for each operator of a network.

    It lifts Python's limit for the whole process when it is imported, after which any endless
    recursion ends in a crash; this puts the limit back.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, DEEP))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _is_old() -> bool:
    try:
        return metadata.version("auto-LiRPA").startswith("0.3")
    except metadata.PackageNotFoundError:
        return False  # from a source tree: its own releases since 0.4


def _put_back_names() -> None:
    def set_opset_version(version: int) -> None:
        GLOBALS.export_onnx_opset_version = version

    def attribute(node: Any, key: str) -> Any:
        return getattr(node, node.kindOf(key))(key)  # the accessor of its kind: i, fs, t, …

    if "numpy.lib.arraysetops" not in sys.modules:
        module = ModuleType("numpy.lib.arraysetops")
        module.isin = np.isin  # type: ignore[attr-defined]
        sys.modules["numpy.lib.arraysetops"] = module
    # not `from torch.onnx import …`, whose attribute of that name may be another module
    helper: Any = importlib.import_module("torch.onnx.symbolic_helper")
    if not hasattr(helper, "_set_opset_version"):
        helper._set_opset_version = set_opset_version
    node: Any = torch._C.Node
    if not hasattr(node, "__getitem__"):
        node.__getitem__ = attribute


def _get_bias(original: Any) -> Any:
    """Its method of that name, which makes 0 of all of a bound's offsets where one is NaN."""

    def get_bias(self: Any, coefficients: Any, bias: Any) -> Any:
        found = original(self, coefficients, bias)
        if coefficients is None or not isinstance(found, int):
            return found
        return coefficients.new_full(coefficients.shape[:2], float("nan"))

    return get_bias


def _named_members(bounded: Any) -> Any:
    """Its method of that name, which did not know an argument that torch passes now."""
    original = bounded._named_members

    def named_members(
        self: Any, members: Any, prefix: str = "", recurse: bool = True, **unknown: Any
    ) -> Any:
        return original(self, members, prefix, recurse)

    return named_members
