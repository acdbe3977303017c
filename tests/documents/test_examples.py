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


def test_logit_pairing_is_its_formula(workshop: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    example = module(workshop / "my_method.py")
    clean, perturbed = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.7, 0.1]])
    monkeypatch.setattr(example["torchattacks"], "perturb", lambda *args, **options: perturbed)
    loss = example["LogitPairing"](weight=2)(torch.log, clean, torch.tensor([0]), rp.Progress())
    differences = [math.log(0.5 / 0.2), math.log(0.3 / 0.7), math.log(0.2 / 0.1)]
    pairing = sum(difference**2 for difference in differences) / 3
    assert loss.parts["pairing"].item() == pytest.approx(pairing)
    assert loss.total.item() == pytest.approx(-math.log(0.2) + 2 * pairing)


def test_scores_start_as_ranks_by_hand(workshop: Path):
    import torch

    example = module(workshop / "my_method.py")
    weight = torch.tensor([[0.3, -4.0], [0.0, 1.0]])
    assert example["ranks"](weight).tolist() == [[0.5, 1], [0.25, 0.75]]
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(weight)
    masked = example["RankStart"]().attach(torch.nn.Sequential(model), 0.5)
    assert masked.masks["0"].mask.tolist() == [[False, True], [False, True]]


def test_corners_are_of_the_ball_and_the_worst_counts(workshop: Path):
    import torch

    example = module(workshop / "my_method.py")
    seen: list[torch.Tensor] = []

    def bright(images: torch.Tensor) -> torch.Tensor:
        """Class 1 if the one pixel is above 0.5."""
        seen.append(images)
        return torch.stack([0.5 - images, images - 0.5], 1)

    images, labels = torch.tensor([0.95, 0.6, 0.3, 0.0]), torch.tensor([1, 1, 1, 0])
    corners = example["Corners"](eps=0.2, draws=20)
    torch.manual_seed(0)
    right = corners.judge(bright, images, labels, seed=0)["corners"]
    assert right.tolist() == [True, False, False, True]  # 0.4 is dark, and 0.3 was wrong untouched
    assert torch.equal(seen[0], images)
    for corner in seen[1:]:
        fair = [{0.75, 1.0}, {0.4, 0.8}, {0.1, 0.5}, {0.0, 0.2}]
        assert all(
            round(value, 5) in some for value, some in zip(corner.tolist(), fair, strict=True)
        )
    assert corners.refutes == ("linf", 0.2)


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
