"""Draws of a process are its rows of what a single process draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune import objectives
from robustprune.models import create_model
from robustprune.rows import Rows
from robustprune.training.whole import WholeBatch
from robustprune.types import Progress

TOTAL, WORLD = 5, 2
SHAPE = (3, 4, 4)

Draw = Callable[[Tensor], Tensor]

DRAWS: dict[str, Draw] = {
    "randn_like": torch.randn_like,
    "rand_like": torch.rand_like,
    "randint_like": lambda x: torch.randint_like(x, 9),
    "randn of a size": lambda x: torch.randn(x.shape),
    "randn of numbers": lambda x: torch.randn(*x.shape),
    "rand by keyword": lambda x: torch.rand(size=x.shape),
    "randint": lambda x: torch.randint(2, 9, x.shape),
    "normal": lambda x: torch.normal(0.0, 2.0, x.shape),
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1, 1),
    "normal_": lambda x: x.new_zeros(x.shape).normal_(1, 2),
    "random_": lambda x: torch.empty_like(x).random_(0, 9),
    "one bernoulli_ an image": lambda x: x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5),
    "one number an image": lambda x: torch.rand(len(x)),
    "normal around the images": lambda x: torch.normal(x, 2.0),
    "a normal distribution": lambda x: torch.distributions.Normal(x, 1.0).sample(),
    "a wide one of numbers": lambda x: torch.distributions.Normal(0.0, 1.0).sample(x.shape),
    "bernoulli": lambda x: torch.bernoulli(x),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.4, training=True),
    "dropout": lambda x: F.dropout(x + 1, 0.4),
    "dropout2d": lambda x: F.dropout2d(x + 1, 0.4),
    "Dropout": lambda x: nn.Dropout(0.4)(x + 1),
    "channels last": lambda x: torch.randn_like(x.contiguous(memory_format=torch.channels_last)),
}


def within(images: Tensor, rows: Rows, foreign: set[str] | None = None) -> WholeBatch:
    names = set() if foreign is None else foreign
    return WholeBatch(images.shape, rows, synchronise=False, foreign=names)


def drawn(draw: Draw, rank: int | None) -> tuple[Tensor, Tensor]:
    """What is drawn for a batch, or for the rows of one process, and what comes after it."""
    images = torch.rand(TOTAL, *SHAPE, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    if rank is None:
        return draw(images), torch.rand(7)
    rows = Rows(TOTAL, rank, WORLD)
    mine = images[rows.place]
    with within(mine, rows):
        return draw(mine), torch.rand(7)


@pytest.mark.parametrize("rank", range(WORLD))
@pytest.mark.parametrize("name", DRAWS)
def test_a_process_draws_its_rows_of_the_whole_batch(name: str, rank: int) -> None:
    whole, after = drawn(DRAWS[name], None)
    mine, after_mine = drawn(DRAWS[name], rank)
    assert torch.equal(mine, whole[rank::WORLD])
    assert torch.equal(after_mine, after)
    assert whole.unique().numel() > 1


@pytest.mark.parametrize("rank", range(WORLD))
def test_noisy_copies_count_their_images_in_the_second_dimension(rank: int) -> None:
    def copies(x: Tensor) -> Tensor:
        return torch.randn((2, *x.shape))

    whole, _ = drawn(copies, None)
    assert torch.equal(drawn(copies, rank)[0], whole[:, rank::WORLD])


def test_a_draw_for_something_else_is_the_same_in_each_process() -> None:
    def weights(x: Tensor) -> Tensor:
        return torch.cat([torch.randn(7, 4).flatten(), torch.randperm(6), torch.rand(1)])

    first, second = (drawn(weights, rank)[0] for rank in range(WORLD))
    assert torch.equal(first, second)


def test_a_draw_may_be_a_leaf() -> None:
    rows = Rows(TOTAL, 1, WORLD)
    x = torch.zeros(len(rows), 3)
    with within(x, rows):
        assert torch.rand_like(x, requires_grad=True).is_leaf
        assert torch.randn(x.shape, requires_grad=True).is_leaf


def test_dropout_inside_attention_is_noted() -> None:
    rows, noted = Rows(TOTAL, 1, WORLD), set[str]()
    x = torch.ones(len(rows), 4, 8)
    attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    with within(x, rows, noted):
        attention.eval()(x, x, x)
        F.scaled_dot_product_attention(x, x, x)
        assert not noted
        attention.train()(x, x, x)
        F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
    assert noted == {"multi_head_attention_forward", "scaled_dot_product_attention"}


def test_dropout_passes_gradients_where_it_passes_values() -> None:
    rows = Rows(TOTAL, 1, WORLD)
    x = torch.ones(len(rows), 50, requires_grad=True)
    with within(x, rows):
        y = F.dropout(x, 0.5)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("name", ["trades", "pgd", "fgsm", "gaussian", "stability", "smoothadv"])
def test_an_objective_of_the_rows_adds_up_to_that_of_the_batch(name: str) -> None:
    """Attacks, the libraries' too, perturb each image as they do in one process."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(TOTAL, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (TOTAL,), generator=generator)
    torch.manual_seed(0)
    model = create_model("cnn_digits", num_classes=10, in_chans=1).double()
    objective = objectives.create(name)

    def loss(rows: Rows) -> float:
        torch.manual_seed(5)
        mine, theirs = images[rows.place].double(), labels[rows.place]
        with within(mine, rows):
            found = objective(model, mine, theirs, Progress()).total
        return found.item() * len(rows) / rows.total

    torch.manual_seed(5)
    whole = objective(model, images.double(), labels, Progress()).total.item()
    parts = sum(loss(Rows(TOTAL, rank, WORLD)) for rank in range(WORLD))
    assert parts == pytest.approx(whole, rel=1e-6)
