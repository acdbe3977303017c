import contextlib

import pytest

from robustprune.errors import MissingDependencyError
from robustprune.evaluators import create, names
from robustprune.testing.evaluators import EVALUATORS, results

from ..libraries import hide

OPTIONS = {
    "alpha_crown": {"eps": 0.016, "iterations": 3},
    "autoattack": {"version": "rand", "steps": 3, "eps": 0.02},
    "crown": {"eps": 0.016},
    "crown_ibp": {"eps": 0.016},
    "ibp": {"eps": 0.016},
    "pgd": {"steps": 3, "restarts": 2, "eps": 0.02},
    "smoothing": {"n0": 20, "n": 200, "radius": 0.05},
    "torchattacks": {"attack": "CW", "args": {"steps": 5}, "norm": "l2", "eps": 0.5},
    "verified": {"eps": 0.016, "iterations": 3},
}
DEAR = ("alpha_crown", "autoattack", "torchattacks", "verified")
EVERY = [pytest.param(name, marks=pytest.mark.slow if name in DEAR else ()) for name in names()]


@pytest.mark.parametrize("promise", EVALUATORS.promises, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", EVERY)
def test_it_keeps_its_promises(name, promise):
    promise(create(name, **OPTIONS.get(name, {})))


@pytest.mark.parametrize("name", EVERY)
def test_misclassified_images_never_count(name):
    """Those that neither refute nor claim a ball included, such as smoothing."""
    evaluator = create(name, **OPTIONS.get(name, {}))
    assert results(evaluator)[0][evaluator.metric][:2].tolist() == [False, False]


@pytest.mark.parametrize("library", ["torchattacks", "auto_LiRPA"])
@pytest.mark.parametrize("name", names())
def test_a_library_is_named_by_who_cannot_do_without_it(name, library, monkeypatch):
    evaluator = create(name, **OPTIONS.get(name, {}))
    hide(library, monkeypatch)
    needed = library in evaluator.requires()
    told = pytest.raises(MissingDependencyError, match=evaluator.install or None)
    with told if needed else contextlib.nullcontext():
        results(evaluator)
