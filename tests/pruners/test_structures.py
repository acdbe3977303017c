import pytest
import torch
from torch import Tensor, nn

from robustprune import pruners
from robustprune.masking import MaskedModel, structures
from robustprune.pruners import Method, Stage
from tests.pruners import nets

PRUNE = Stage("prune", None)


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def begun(name: str, structure: str, model: nn.Module) -> tuple[Method, MaskedModel]:
    pruner = pruners.create(name, structure=structure)
    masked, method, stages = nets.begun(pruner, 0.5, model=model)
    if name == "hydra":
        method.prepare(stages[0], masked)
        method.begin(stages[0], masked)
    return method, masked


@pytest.mark.parametrize("name", ["hydra", "magnitude", "random"])
@pytest.mark.parametrize("structure", structures.names())
def test_every_structure_can_be_had_by(name, structure):
    _, masked = begun(name, structure, network(nn.Linear(8, 8), nn.Linear(8, 8)))
    for weight, mask in masked.masks.items():
        entries = masked.structure.reduce(mask.float())
        assert int((entries > 0).sum()) == entries.numel() / 2, weight
        assert int(mask.sum()) == mask.numel() / 2


def gradients_of(masked: MaskedModel, images: Tensor) -> dict[str, Tensor]:
    (masked.model(images) ** 2).sum().backward()
    return {name: score.grad for name, score in masked.scores.items()}


def test_sgd_moves_the_sum_of_scores_as_it_would_move_one_score_of_the_filter():
    model = network(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    _, masked = begun("hydra", "filter", model)
    weight, scores = masked.weights["0.weight"], masked.scores["0.weight"]
    images = torch.rand(5, 3).double()
    before = scores.detach().abs().sum(1)
    gradients_of(masked, images)

    # a mask of one number a filter, at its present value
    entry = masked.masks["0.weight"][:, 0].double().requires_grad_()
    first, second = masked.model[0], masked.model[1]
    hidden = images @ (entry[:, None] * weight.detach()).T + first.bias.detach()
    ((hidden @ second.weight.detach().T + second.bias.detach()) ** 2).sum().backward()

    rate = 1e-5  # so that no score changes its sign
    with torch.no_grad():
        scores -= rate * scores.grad
    moved = scores.detach().abs().sum(1) - before
    torch.testing.assert_close(moved, -rate * entry.grad)


def test_a_filter_that_is_pruned_can_come_back_as_a_whole():
    method, masked = begun("hydra", "filter", network(nn.Linear(3, 4), nn.Linear(4, 2)))
    gone = ~masked.masks["0.weight"][:, 0]
    with torch.no_grad():
        masked.scores["0.weight"][gone] *= 100
    method.select(PRUNE, masked)
    assert masked.masks["0.weight"][:, 0].tolist() == gone.tolist()
    assert masked.turnover == 1


@pytest.mark.parametrize("structure", ["filter", "channel", "block"])
def test_random_draws_entries_and_not_sums(structure):
    """Sums of many draws would be alike, and larger where an entry has more weights."""
    model = network(nn.Linear(4, 400), nn.Linear(400, 402), nn.Linear(402, 3))
    part = pruners.create("random", structure=structure, allocation="global")
    masked, _, _ = nets.begun(part, 0.5, seed=1, model=model)
    for mask in masked.masks.values():
        kept = masked.structure.reduce(mask.float()) > 0
        if kept.numel() > 99:
            assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.1)
    if structure == "block":  # those of two rows at the edge are as likely as the others
        edge = masked.structure.reduce(masked.masks["1.weight"].float())[-1] > 0
        assert float(edge.float().mean()) == pytest.approx(0.5, abs=0.15)
