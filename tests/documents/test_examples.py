"""The examples in the documents against values computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import robustprune as rp
from robustprune.errors import InterruptedRun
from robustprune.masking import MaskedModel

from ..pipeline import tiny
from ..pipeline.steps import interrupting
from .markdown import module

pytestmark = pytest.mark.slow


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


def test_smooth_pgd_is_its_formula(workshop: Path):
    import torch

    example = module(workshop / "smooth_pgd.py")
    perturbed = torch.tensor([[0.2, 0.7, 0.1]])
    objective = example["SmoothPgd"](smoothing=0.3)
    loss = objective.loss(torch.log, torch.zeros(1, 3), perturbed, torch.tensor([0]), rp.Progress())
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


def test_an_npz_holds_what_the_network_does(workshop: Path):
    import numpy as np

    from robustprune.artifacts.saved import SavedModel

    module(workshop / "arrays.py")
    architecture = {"name": "cnn_digits", "in_chans": 1, "image_size": 8}
    network = SavedModel(rp.create_model(**architecture).eval(), {}, {"model": architecture})
    rp.backends.create("arrays", compressed="false").export(network, workshop / "net.npz")
    arrays = np.load(workshop / "net.npz")
    for name, tensor in network.model.state_dict().items():
        assert np.array_equal(arrays[name], tensor.numpy())


def tangible(*values: list[list[float]]) -> MaskedModel:
    """Linear layers of these weights, masked by ones."""
    import torch

    layers = [torch.nn.Linear(len(rows[0]), len(rows), bias=False) for rows in values]
    with torch.no_grad():
        for layer, rows in zip(layers, values, strict=True):
            layer.weight.copy_(torch.tensor(rows))
    return rp.masking.attach(torch.nn.Sequential(*layers))


def context(density: float, **options: Any) -> rp.Context:
    """What a method works with: one batch of one image of class 0, and plain cross-entropy."""
    import torch

    batch = (torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    return rp.Context(
        density=density,
        objective=rp.objectives.create("benign"),
        generator=torch.Generator().manual_seed(0),
        batches=lambda size: iter([batch, batch]),
        checkpoints=options.get("checkpoints", {}),
    )


def flat(masked: MaskedModel) -> list[bool]:
    (mask,) = masked.masks.values()
    return mask.flatten().tolist()


def test_sensitivity_by_hand(workshop: Path):
    """The gradient of one image is (p − y)·xᵀ; both logits are 3, so |g·w| is half of these."""
    example = module(workshop / "sensitivity.py")
    masked = tangible([[1.0, 1.0], [-1.0, 2.0]])  # |g·w|: 1·1, 2·1, 1·1, 2·2
    method = example["Sensitivity"]().method(context(0.5))
    method.begin(rp.Stage("train", rp.StageOptions(epochs=1)), masked)
    assert flat(masked) == [False, True, False, True]


def test_drop_and_grow_by_hand(workshop: Path, monkeypatch: pytest.MonkeyPatch):
    """Of four kept weights the two smallest go, two of those pruned come, as zeros."""
    import torch

    example = module(workshop / "drop_and_grow.py")
    masked = tangible([[4.0, 1.0, -2.0, 3.0, 9.0, 9.0, 9.0, 9.0]])
    method = example["DropAndGrow"](share=0.5, every={"steps": 2}).method(context(0.5))
    masked.set({"0.weight": torch.tensor([[True] * 4 + [False] * 4])})
    optimizer = torch.optim.SGD(masked.weight_parameters(), lr=0.0, momentum=0.9)
    masked.model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    noise = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.3, 0.1, 0.4, 0.2]])
    monkeypatch.setattr(method, "noise", lambda weight: noise)
    stage = rp.Stage("train", rp.StageOptions(epochs=1))
    method.after_step(stage, masked, optimizer, rp.Progress(step=0))
    assert flat(masked) == [True] * 4 + [False] * 4, "not due"
    method.after_step(stage, masked, optimizer, rp.Progress(step=1))
    assert flat(masked) == [True, False, False, True, True, False, True, False]
    (weight,) = masked.weights.values()
    assert weight.tolist() == [[4.0, 1.0, -2.0, 3.0, 0.0, 9.0, 0.0, 9.0]]
    (momentum,) = (state["momentum_buffer"] for state in optimizer.state.values())
    assert momentum[0, [4, 6]].tolist() == [0, 0]


def test_splitting_by_hand(workshop: Path):
    """W = (4, 1, −2, 3) at density ½: Z = (4, 0, 0, 3), then W + U is projected again."""
    import torch

    example = module(workshop / "splitting.py")
    masked = tangible([[4.0, 1.0, -2.0, 3.0]])
    pruner = example["Splitting"](rho=0.5)
    method = pruner.method(context(0.5))
    stage = rp.Stage("prune", rp.StageOptions(epochs=1))
    method.begin(stage, masked)
    assert float(method.penalty(stage, masked, rp.Progress())) == 0.5 / 2 * (1 + 4)
    assert flat(masked) == [True] * 4, "all weights are trained"
    shown = method.after_epoch(
        stage, masked, torch.optim.SGD(masked.weights.values()), rp.Progress(), {}
    )
    assert shown == {"gap": pytest.approx(5**0.5)}
    assert method.duals["0.weight"].tolist() == [[0, 1, -2, 0]]
    other = pruner.method(context(0.5))
    other.load_state_dict(method.state_dict())
    assert float(other.penalty(stage, masked, rp.Progress())) == 0.5 / 2 * (4 + 16)
    finetune = rp.Stage("finetune", rp.StageOptions(epochs=1))
    method.begin(finetune, masked)
    assert flat(masked) == [True, False, False, True]
    assert method.penalty(finetune, masked, rp.Progress()) is None


def test_ticket_by_hand(workshop: Path):
    import torch

    example = module(workshop / "ticket.py")
    masked = tangible([[4.0, 1.0, -2.0, 3.0]])
    pruner = example["Ticket"](rewind=2)
    assert pruner.needs() == ("dense", "pretrain@2")
    (stage,) = pruner.stages(0.5, {"pretrain": rp.StageOptions(epochs=5)})
    assert (stage.start, stage.options.epochs) == (2, 5)
    early = {"pretrain@2": {"0.weight": torch.tensor([[0.1, 0.9, 0.8, 0.2]])}}
    pruner.method(context(0.5, checkpoints=early)).begin(stage, masked)
    assert flat(masked) == [True, False, False, True]
    assert masked.model[0].weight.tolist() == [[pytest.approx(0.1), 0, 0, pytest.approx(0.2)]]
    assert example["Ticket"](rewind=0).needs() == ("dense", "init")


@pytest.mark.slow
def test_pruners_of_the_page_keep_what_is_asked_and_go_on_where_they_were(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
):
    """On digits, two steps an epoch; interrupted before each fifth step, and resumed."""
    names = ("sensitivity", "drop_and_grow", "splitting", "ticket")
    methods = [
        "sensitivity",
        {"name": "drop_and_grow", "every": {"steps": 1}},
        "splitting",
        "ticket",
    ]
    changes = {
        "imports": [f"{name}.py" for name in names],
        "prune": {"methods": methods, "densities": [0.1], "epochs": 1},
        "finetune": {"epochs": 1},
        "evaluate": [],
    }
    recipe = tiny.write(workshop, changes)
    whole = rp.run(recipe, out=workshop / "whole", fresh=True)
    assert [entry["name"] for entry in whole.networks] == ["dense", *(f"{n}-0.1" for n in names)]
    assert all(entry["kept"] == 2947 for entry in whole.networks[1:])
    interruptions, go_on = 0, False
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(rp.Method, "step", interrupting(5))
            try:
                rp.run(recipe, out=workshop / "cut", fresh=True, resume=go_on)
                break
            except InterruptedRun:
                interruptions, go_on = interruptions + 1, True
    assert interruptions >= 3
    assert tiny.models(workshop / "cut") == tiny.models(whole.folder)


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
    masked = rp.masking.attach(model)
    method = example["Lamp"]().method(context(0.5))
    method.begin(rp.Stage("finetune", None), masked)  # 1 and 1, then 4/13 before 1/5
    assert {name: mask.flatten().tolist() for name, mask in masked.masks.items()} == {
        "0.weight": [False, True, True, False],
        "1.weight": [False, True],
    }
    assert masked.turnover == 0


def test_kernels_by_hand(workshop: Path):
    import torch

    structure = module(workshop / "kernels.py")["Kernel"]()
    weight = torch.tensor([[[[1.0, 2]], [[0, 4]]], [[[3, 0]], [[1, 1]]]])  # (2, 2, 1, 2)
    entries = structure.reduce(weight)
    assert entries.tolist() == [[3, 4], [3, 2]]
    mask = structure.expand(structure.select(entries, 2), weight)
    assert mask.tolist() == [[[[True, True]], [[True, True]]], [[[False] * 2], [[False] * 2]]]
    layers = {"conv": weight, "linear": weight[0, 0]}
    assert structure.stays_dense(layers, rp.structures.Ends({"conv"}, {"linear"})) == {"linear"}


def test_power_by_hand(workshop: Path):
    import torch

    example = module(workshop / "power.py")
    scores = {"small": torch.ones(2, 2), "large": torch.ones(2, 32)}
    assert example["Power"]()(scores, 0.25) == {"small": 3, "large": 14}  # 17 in all, as 2 to 8
    assert example["Power"](exponent=1)(scores, 0.25) == {"small": 1, "large": 16}
    assert example["Power"]()(scores, 0.1) == {"small": 1, "large": 6}
    assert example["Power"](minimum=1)(scores, 0.1) == {"small": 2, "large": 5}  # one a filter


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


def test_empty_filters_by_hand(workshop: Path):
    import torch

    from robustprune.artifacts.saved import SavedModel

    module(workshop / "zeros.py")
    model = torch.nn.Linear(2, 3)
    with torch.no_grad():
        model.weight[1] = 0
    found = rp.measures.create("empty_filters").measure(SavedModel(model, {}, {}), torch.ones(1, 2))
    assert found == {"filters": 3, "empty": 1}
