import pytest
import torch

from robustprune import pruners
from robustprune.errors import UsageError
from tests.pruners.nets import at_work, linear, sections

START = {"1.weight": torch.tensor([[10.0, 20.0, 30.0, 40.0]])}


def test_a_round_keeps_the_largest_of_what_is_left_and_rewinds():
    method, masked, stages = at_work(
        "lottery", linear([4.0, 3.0, 2.0, 1.0]), 0.25, rate=0.5, checkpoints={"init": START}
    )
    first, second = stages
    method.begin(first, masked)
    assert masked.masks["1.weight"].tolist() == [[True, True, False, False]]
    assert masked.model[1].weight.tolist() == [[10.0, 20.0, 0.0, 0.0]]
    # trained anew: what was pruned does not come back, however large it has become
    masked.weights["1.weight"].data = torch.tensor([[1.0, 5.0, 99.0, 99.0]])
    method.begin(second, masked)
    assert masked.masks["1.weight"].tolist() == [[False, True, False, False]]
    assert masked.model[1].weight.tolist() == [[0.0, 20.0, 0.0, 0.0]]


def test_the_number_of_rounds_and_their_densities():
    lottery = pruners.create("lottery")
    assert len(lottery.rounds(0.1)) == 11
    assert lottery.rounds(0.8) == [0.8]
    assert lottery.rounds(0.64) == [pytest.approx(0.8), 0.64]
    assert lottery.rounds(0.5) == [
        pytest.approx(0.8),
        pytest.approx(0.64),
        pytest.approx(0.512),
        0.5,
    ]
    assert lottery.rounds(1.0) == [1.0]


def test_rounds_train_from_the_rewound_epoch_to_the_end():
    lottery = pruners.create("lottery", rate=0.5, rewind=1)
    assert lottery.needs() == ("dense", "pretrain@1")
    stages = lottery.stages(0.25, sections())
    assert [(s.name, s.options.epochs, s.start) for s in stages] == [
        ("train-1", 5, 1),
        ("train-2", 5, 1),
    ]
    assert pruners.create("lottery").needs() == ("dense", "init")


def test_rewinding_past_the_end_is_refused():
    with pytest.raises(UsageError, match="rewind is 5, and a round trains to epoch 5"):
        pruners.create("lottery", rewind=5).stages(0.5, sections())
