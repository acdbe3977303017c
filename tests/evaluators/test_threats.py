"""Which ball an attack searches: what a certificate's claim is held against."""

from __future__ import annotations

from typing import Any

import pytest

from robustprune.evaluators import create
from robustprune.types import Threat


@pytest.mark.parametrize(
    ("name", "options", "threat"),
    [
        ("pgd", {"eps": "2/255"}, Threat("linf", 2 / 255)),
        ("pgd", {"norm": "l2", "eps": 0.5}, Threat("l2", 0.5)),
        ("autoattack", {}, Threat("linf", 8 / 255)),
        ("autoattack", {"norm": "l2", "eps": 0.5}, Threat("l2", 0.5)),
        ("torchattacks", {"attack": "CW", "norm": "l2", "eps": 0.5}, Threat("l2", 0.5)),
        ("torchattacks", {"attack": "FGSM", "args": {"eps": 0.1}}, Threat("linf", 0.1)),
    ],
)
def test_attacks_name_their_ball(name: str, options: dict[str, Any], threat: Threat) -> None:
    evaluator = create(name, **options)
    assert evaluator.refutes == threat
    assert evaluator.claims is None


def test_accuracy_without_an_adversary_says_nothing_of_a_ball() -> None:
    assert (create("clean").refutes, create("clean").claims) == (None, None)
