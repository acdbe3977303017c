"""Networks from elsewhere that guess are told what they were trained with."""

from __future__ import annotations

import re
from itertools import permutations
from math import comb

import pytest
import torch
from torch import Tensor, nn

from robustprune.datasets.source import TensorSource
from robustprune.pipeline.intake import best_order, doubt, guesses

CPU = torch.device("cpu")
CYCLE = [1, 2, 3, 0]


class Bright(nn.Module):
    """Tells four brightnesses apart, of images that were normalised by this mean and deviation."""

    def __init__(self, mean: float, std: float, order: list[int] | None = None) -> None:
        super().__init__()
        self.mean, self.std, self.order = mean, std, order or [0, 1, 2, 3]

    def forward(self, images: Tensor) -> Tensor:
        level = ((images.mean((1, 2, 3)) * self.std + self.mean) * 4).long().clamp(0, 3)
        return nn.functional.one_hot(torch.tensor(self.order)[level], 4).float()


def told(model: nn.Module, *, n: int = 400) -> str:
    labels = torch.randint(4, (n,), generator=torch.Generator().manual_seed(0))
    images = ((labels + 0.5) / 4).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return doubt(model, TensorSource(images, labels), {"name": "bright"}, device=CPU)


def test_a_network_that_knows_is_not_doubted() -> None:
    assert told(Bright(0, 1)) == ""


@pytest.mark.parametrize(
    ("mean", "std", "label"),
    [(0, 1 / 255, "pixels from 0 to 255"), (9, 0, None)],
    ids=str,
)
def test_a_network_of_another_normalisation(mean: float, std: float, label: str | None) -> None:
    """Behind the right statistics the network is right on all images."""
    text = told(Bright(mean, std))
    assert text.startswith("the network guesses: ")
    if label is None:
        assert "None of them helps, and no other order" in text
    else:
        assert f"{label} 100.0%" in text
        assert "model.std: [0.00392157, 0.00392157, 0.00392157]" in text


def test_a_network_of_another_order_of_classes() -> None:
    text = told(Bright(0, 1, CYCLE))
    assert "{0: 1, 1: 2, 2: 3, 3: 0}, it is right on 100.0%" in text
    assert "weight[[1, 2, 3, 0]]; of an imagefolder, naming its classes" in text
    assert "model.mean" not in text
    both = told(Bright(0, 1 / 255, CYCLE))
    assert "weight[[1, 2, 3, 0]]" in both
    assert "(pixels from 0 to 255): model.mean: [0, 0, 0]" in both


def test_a_network_that_is_half_right() -> None:
    text = told(Bright(0, 1, [0, 1, 3, 2]))
    assert re.match(r"its classes stand in another order: .*\{2: 3, 3: 2\}", text)


def test_the_order_is_the_best_of_all_permutations() -> None:
    generator = torch.Generator().manual_seed(3)
    answers, labels = torch.randint(4, (2, 60), generator=generator)
    order, right, of = best_order(answers, labels)
    found, held = labels[::2], labels[1::2]

    def agreement(one: tuple[int, ...]) -> int:
        return int((torch.tensor(one)[found] == answers[::2]).sum())

    assert agreement(tuple(order)) == max(map(agreement, permutations(range(4))))
    assert (right, of) == (int((torch.tensor(order)[held] == answers[1::2]).sum()), 30)


def test_guessing_is_the_binomial_tail() -> None:
    tail = sum(comb(20, k) * 0.1**k * 0.9 ** (20 - k) for k in range(7, 21))
    assert guesses(7, 20, 0.1, alpha=tail * 0.999)
    assert not guesses(7, 20, 0.1, alpha=tail * 1.001)
    assert guesses(0, 20, 0.1)
