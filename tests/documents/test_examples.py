"""The examples in the documents against values computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import robustprune as rp

from .markdown import module


def test_mart_is_its_formula(workshop: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    example = module(workshop / "mart.py")
    clean, perturbed = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.7, 0.1]])
    monkeypatch.setattr(example["torchattacks"], "perturb", lambda *args, **options: perturbed)
    loss = example["Mart"](beta=4)(torch.log, clean, torch.tensor([0]), rp.Progress())
    boosted = -math.log(0.2) - math.log(1 - 0.7)
    divergence = 0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.7) + 0.2 * math.log(0.2 / 0.1)
    assert loss.parts["bce"].item() == pytest.approx(boosted)
    assert loss.total.item() == pytest.approx(boosted + 4 * (1 - 0.5) * divergence)


def test_smooth_pgd_is_its_formula(workshop: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    example = module(workshop / "smooth_pgd.py")
    perturbed = torch.tensor([[0.2, 0.7, 0.1]])
    monkeypatch.setattr(example["torchattacks"], "perturb", lambda *args, **options: perturbed)
    objective = example["SmoothPgd"](smoothing=0.3)
    loss = objective(torch.log, torch.zeros(1, 3), torch.tensor([0]), rp.Progress())
    expected = -(0.8 * math.log(0.2) + 0.1 * math.log(0.7) + 0.1 * math.log(0.1))
    assert loss.total.item() == pytest.approx(expected)


def test_lamp_scores_by_hand(workshop: Path):
    import torch

    example = module(workshop / "lamp.py")
    scores = example["lamp"](torch.tensor([[1.0, 2.0], [-3.0, 0.0]]))
    assert scores.tolist() == [[pytest.approx(1 / 14), pytest.approx(4 / 13)], [1, 0]]
    assert example["lamp"](torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 0.0]]))
        model[1].weight.copy_(torch.tensor([[0.1, 0.2]]))
    masked = example["Lamp"]().attach(model, 0.5)  # 1 and 1, then 4/13 before 1/5
    assert {n: m.mask.flatten().tolist() for n, m in masked.masks.items()} == {
        "0": [False, True, True, False],
        "1": [False, True],
    }
    assert masked.turnover == 0


def test_uniform_plus_by_hand(workshop: Path):
    import torch

    example = module(workshop / "uniform_plus.py")
    scores = {"first": torch.ones(10), "middle": torch.ones(60), "last": torch.ones(30)}
    allocation = example["UniformPlus"]()
    assert allocation(scores, 0.5) == {"first": 10, "middle": 25, "last": 15}
    assert allocation(scores, 0.2) == {"first": 10, "middle": 4, "last": 6}
    with pytest.raises(rp.UsageError, match=r"density 0\.1 is used up"):
        allocation(scores, 0.1)


def test_selective_sgd_and_polynomial_by_hand(workshop: Path):
    import torch

    example = module(workshop / "selective_sgd.py")
    optimizer = example["SelectiveSgd"](lr=0.5).build(torch.nn.Linear(3, 2).parameters())
    shapes = [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    assert shapes == [[(2, 3)], [(2,)]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0]
    assert example["Polynomial"](power=2)(rp.Progress(fraction=0.5)) == 0.25


def test_npz_reads_its_files_and_names_those_that_are_missing(workshop: Path):
    example = module(workshop / "npz.py")
    data = example["Npz"](root=Path("small_digits"), size=8, grey=True)
    assert data.open(train=True).images.shape == (70, 1, 8, 8)
    assert len(data.open(train=False)) == 50
    (workshop / "small_digits" / "test.npz").write_bytes(b"no zip")
    with pytest.raises(rp.UsageError, match=r"test\.npz: not \.npz with"):
        data.open(train=False)
    with pytest.raises(rp.UsageError, match=r"train\.npz was not found"):
        example["Npz"](root=Path("elsewhere")).open(train=True)
