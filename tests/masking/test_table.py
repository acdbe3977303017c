import pytest
import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.masking import attach
from tests.masking.nets import learning, network

A, B = "0.weight", "4.weight"


def test_a_masked_network_is_shown_as_a_table_of_its_layers():
    masked = attach(network())
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0] = True
    masked.set({B: mask})
    title, *lines = repr(masked).splitlines()
    assert title == "masks of Sequential, structure weight, turnover 0.0%"
    assert [line.split() for line in lines] == [
        ["layer", "shape", "kept", "of", "density"],
        ["0", "2×2×3×3", "36", "36", "1"],
        ["4", "3×12", "12", "36", "0.3333"],
        ["all", "48", "72", "0.6667"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_scores_are_shown_by_their_range_and_layers_left_dense_by_name():
    masked = attach(network(), structure="filter")
    assert "left dense by the structure: 4" in repr(masked)
    masked = learning()
    masked.add_scores({A: torch.linspace(-0.25, 0.5, 36).view(2, 2, 3, 3)})
    assert repr(masked).splitlines()[2].endswith("  -0.25 to 0.5")


def test_layers_are_included_and_excluded_by_name_or_pattern():
    def names(**options):
        return list(attach(network(), **options).weights)

    assert (
        names(include="0") == names(exclude="4") == names(include=["0", "4"], exclude=["4"]) == [A]
    )
    assert names(include="*") == names() == [A, B]
    with pytest.raises(UsageError, match=r"include: no layer is called 'fc'\. Choices: 0, 4"):
        names(include="fc")
    with pytest.raises(UsageError, match="exclude: 0 leaves no layer to prune"):
        names(include="0", exclude="0")


def test_a_structure_may_have_options():
    wide = nn.Sequential(nn.Linear(8, 2))
    masked = attach(wide, structure={"name": "n_m", "n": 1, "m": 4})
    assert (masked.structure.n, masked.structure.m) == (1, 4)
    with pytest.raises(UsageError, match=r"unknown structure 'filtre'\. Did you mean 'filter'"):
        attach(nn.Sequential(nn.Linear(8, 2)), structure="filtre")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"4": torch.ones(3, 12)}, "scores: no masked weight is '4'. Did you mean '4.weight'?"),
        ({B: torch.ones(())}, r"expected real numbers of shape \(3, 12\); got torch.float32 of"),
        ({B: torch.ones(3, 12, dtype=torch.int64)}, r"got torch.int64 of .*Write \.float\(\)"),
        ({B: [1.0]}, "expected a tensor"),
    ],
    ids=["a layer's name", "a shape that broadcasts", "integers", "a list"],
)
def test_scores_that_do_not_fit_are_refused_and_nothing_changes(values, said):
    masked = attach(network())
    with pytest.raises(UsageError, match=said):
        masked.add_scores({A: torch.ones(2, 2, 3, 3)} | values)
    assert not masked.scores


def test_scores_may_be_given_for_some_weights_only():
    masked = attach(network())
    masked.add_scores({A: torch.full((2, 2, 3, 3), 2.0)})
    assert bool((masked.scores[A] == 2).all())
    assert not bool(masked.scores[B].any())
    masked.add_scores({B: torch.ones(3, 12)})
    assert bool((masked.scores[A] == 2).all())
