"""How the package's modules hang together."""

from __future__ import annotations

import graphlib

import grimp


def test_no_module_imports_itself_through_others():
    """Circles of two files included, and those of imports inside functions."""
    graph = grimp.build_graph("robustprune", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names one
