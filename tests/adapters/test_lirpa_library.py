"""The library's shims, each case in a process that has not seen the library before."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from robustprune.adapters.bounds import Bounds
from robustprune.adapters.lirpa_library import lirpa
from robustprune.errors import MissingDependencyError

from .tiny import images, network

LINE = "pip install --no-deps auto-LiRPA"

FORKS = """
    import os, sys, traceback, warnings
    import torch  # once for all: it takes most of the time

    def alone(code):
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        try:
            exec(code, {"__name__": "alone"})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    sys.exit(any([alone(code) for code in CASES]))
"""

WORKS = """
    import sys, warnings
    import torch
    {before}
    from robustprune.adapters.lirpa_library import lirpa
    filters, limit = list(warnings.filters), sys.getrecursionlimit()
    library = lirpa()
    assert warnings.filters == filters
    assert sys.getrecursionlimit() == limit
    assert lirpa() is library is sys.modules["auto_LiRPA"]
    from robustprune.adapters.bounds import Bounds
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 2), torch.nn.BatchNorm2d(2), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(8, 3),
    )
    x, y = torch.rand(2, 1, 3, 3), torch.tensor([0, 2])
    assert Bounds(net, x).margins(net, x, y, eps=0.1, method="crown").isfinite().all()
    assert sys.getrecursionlimit() == limit
"""

ORDERS = (
    "",
    "from torch.onnx import symbolic_helper",
    "import torch.onnx.symbolic_helper, logging; logging.basicConfig(level=0)",
    "import torch.onnx.utils; warnings.simplefilter('error')",
)


def run(*cases):
    """In one new process a fork each: what they print, if all of them succeed."""
    code = f"CASES = {[textwrap.dedent(case) for case in cases]!r}\n{textwrap.dedent(FORKS)}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.slow
def test_it_works_whatever_was_imported_before():
    done = run(*(WORKS.format(before=order) for order in ORDERS))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_names_are_put_back_for_old_versions_only_and_an_import_can_be_tried_again():
    new = """
        import sys
        from importlib import metadata
        from robustprune.adapters import lirpa_library
        from robustprune.errors import MissingDependencyError
        version, metadata.version = metadata.version, lambda name: "0.7.1"
        try:
            lirpa_library.lirpa()
        except MissingDependencyError:  # what is installed is 0.3, and fails without them
            pass
        assert "numpy.lib.arraysetops" not in sys.modules
        assert not hasattr(lirpa_library.importlib.import_module("torch")._C.Node, "__getitem__")
        metadata.version = version
        lirpa_library.lirpa()
    """
    lacking = f"""
        import sys
        from robustprune.adapters.lirpa_library import lirpa
        from robustprune.errors import MissingDependencyError
        sys.modules["appdirs"] = None
        try:
            lirpa()
        except MissingDependencyError as error:
            assert "appdirs" in str(error) and {LINE!r} in str(error)
        else:
            raise AssertionError("imported without one of its own dependencies")
        del sys.modules["appdirs"]
        lirpa()
    """
    done = run(new, lacking)
    assert done.returncode == 0, done.stderr


def test_a_missing_library_is_told_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    for use in (lirpa, lambda: Bounds(network("mlp"), images())):
        with pytest.raises(MissingDependencyError) as error:
            use()
        assert LINE in [line.strip() for line in str(error.value).splitlines()]


@pytest.mark.slow
def test_deep_networks_do_not_reach_pythons_limit_of_recursion():
    torch.manual_seed(0)
    layers = [layer for _ in range(300) for layer in (nn.Linear(2, 2), nn.ReLU())]
    net, x = nn.Sequential(nn.Flatten(), *layers, nn.Linear(2, 2)), torch.rand(1, 1, 1, 2)
    margins = Bounds(net, x).margins(net, x, torch.tensor([0]), eps=0.1, method="ibp")
    assert margins.isfinite().all()
