import contextlib

import pytest
import torch

from robustprune.errors import MissingDependencyError, UsageError
from robustprune.objectives import Loss, Objective, create, names
from robustprune.testing.objectives import OBJECTIVES, ready
from robustprune.types import Progress
from tests.libraries import hide

from .toys import batch, network

OURS = {
    *("benign", "pgd", "fgsm", "trades", "free", "gaussian", "stability", "smoothadv"),
    *("ibp", "crown_ibp", "mixtrain"),
    "pwoa",
}


@pytest.mark.parametrize("promise", OBJECTIVES.promises, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", sorted(OURS | set(names())))
def test_it_keeps_its_promises(name, promise):
    promise(create(name))


@pytest.mark.parametrize("name", names())
def test_ours_attack_apart(name):
    assert create(name).attacks_apart


def test_an_objective_may_define_its_call_alone():
    class Mine(Objective):
        def __call__(self, model, images, labels, progress):
            logits = model(images)
            return Loss(logits.square().mean(), logits, {})

    class Nothing(Objective):
        pass

    images, labels = batch()
    assert not Mine().attacks_apart
    assert Mine()(network(), images, labels, Progress()).total > 0
    with pytest.raises(TypeError, match="Nothing must define loss"):
        Nothing()(network(), images, labels, Progress())


def test_benign_is_cross_entropy():
    images, labels = batch()
    loss = create("benign")(network(), images, labels, Progress())
    expected = torch.nn.functional.cross_entropy(network()(images), labels)
    assert torch.equal(loss.total, expected)


def test_unknown_options_are_named():
    with pytest.raises(UsageError, match=r"'epsilon'.*eps"):
        create("trades", epsilon=1)


@pytest.mark.parametrize("library", ["torchattacks", "auto_LiRPA"])
@pytest.mark.parametrize("name", names())
def test_a_library_is_named_by_who_cannot_do_without_it(name, library, monkeypatch):
    objective = ready(create(name))
    hide(library, monkeypatch)
    needed = library in objective.requires()
    told = pytest.raises(MissingDependencyError, match=objective.install or None)
    with told if needed else contextlib.nullcontext():  # free: on the validation split only
        objective.validation_loss(network(), *batch(), Progress())
        objective(network(), *batch(), Progress())
