"""What numbers are called: an attack that tries less than its name promises says so."""

import pytest
import torch

from robustprune.evaluators import create
from robustprune.families import metric_of

from .toys import batch, linear, numbered


@pytest.mark.parametrize(
    ("document", "metric"),
    [
        ({"name": "autoattack"}, "autoattack"),
        ({"name": "autoattack", "eps": "4/255", "samples": 10, "norm": "l2"}, "autoattack"),
        ({"name": "autoattack", "steps": 100, "version": "standard"}, "autoattack"),
        ({"name": "autoattack", "steps": 10}, "autoattack-10"),
        ({"name": "autoattack", "version": "rand"}, "autoattack-rand"),
        ({"name": "autoattack", "version": "plus", "steps": 20}, "autoattack-plus-20"),
        ({"name": "autoattack", "steps": 200}, "autoattack"),
        ({"name": "autoattack", "steps": 10, "label": "weak"}, "weak"),
        ({"name": "pgd", "restarts": 10}, "pgd"),
        ({"name": "pgd", "steps": 20}, "pgd-20"),
        ({"name": "torchattacks", "attack": "PGD", "eps": 0.1}, "torchattacks_pgd"),
        (
            {"name": "torchattacks", "attack": "PGD", "eps": 0.1, "args": {"steps": 3}},
            "torchattacks_pgd-3",
        ),
        (
            {"name": "torchattacks", "attack": "Square", "eps": 0.1, "args": {"n_queries": 100}},
            "torchattacks_square-n_queries-100",
        ),
        (
            {"name": "torchattacks", "attack": "PGD", "eps": 0.1, "args": {"steps": 300}},
            "torchattacks_pgd",
        ),
        (
            {"name": "torchattacks", "attack": "AutoAttack", "eps": 0.1},
            "torchattacks_autoattack-10",
        ),
        (
            {
                "name": "torchattacks",
                "attack": "AutoAttack",
                "eps": 0.1,
                "args": {"version": "rand"},
            },
            "torchattacks_autoattack-rand-10",
        ),
        ({"name": "clean"}, "clean"),
        ({"name": "crown"}, "crown"),
    ],
)
def test_a_bare_name_is_for_the_usual_settings_or_more(document, metric):
    fields = {key: value for key, value in document.items() if key != "name"}
    assert create(document["name"], **fields).metric == metric
    assert metric_of(document) == metric


@pytest.mark.parametrize(
    "document", [{"name": "mine", "label": "x"}, {"name": "x", "eps": 0.1}, {"label": "x"}]
)
def test_a_part_that_is_not_known_here_goes_by_its_label_or_name(document):
    assert metric_of(document) == "x"


def test_the_name_changes_and_the_draws_do_not():
    """So a weak PGD starts where the full one does, and a result keeps its bits."""
    model = linear(4)
    images, labels = batch(model, 6)

    def starts(**options):
        evaluator, seen = create("pgd", eps=0.1, **options), []
        said = {evaluator.metric: torch.zeros(3, dtype=torch.bool)}
        object.__setattr__(evaluator, "judge", lambda *_, **__: seen.append(torch.rand(3)) or said)
        list(evaluator.evaluate(model, numbered(images, labels, 3), seed=0, network="dense"))
        return torch.stack(seen)

    assert torch.equal(starts(), starts(steps=3))
    assert not torch.equal(starts(), starts(label="mine"))
