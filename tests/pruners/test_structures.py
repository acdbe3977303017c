import pytest
import torch
from torch import Tensor, nn

from robustprune import objectives, pruners
from robustprune.masking import MaskedModel, attach, structures
from robustprune.pruners import Context, Method, Stage

PRUNE = Stage("prune", None)
FINETUNE = Stage("finetune", None)


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers) if layers else nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))


def at_work(
    name: str, structure: str, model: nn.Module, density: float
) -> tuple[Method, MaskedModel]:
    pruner = pruners.create(name, structure=structure)
    context = Context(
        density=density,
        objective=objectives.create("benign"),
        generator=torch.Generator().manual_seed(0),
        batches=lambda size, per_class=None: iter(()),
        checkpoints={},
    )
    masked = attach(model, structure=pruner.structure)
    method = pruner.method(context)
    stage = method_stage(name)
    method.prepare(stage, masked)
    method.begin(stage, masked)
    return method, masked


def method_stage(name: str) -> Stage:
    return PRUNE if name == "hydra" else FINETUNE


@pytest.mark.parametrize("name", ["hydra", "magnitude", "random"])
@pytest.mark.parametrize("structure", structures.names())
def test_every_structure_can_be_had_by(name, structure):
    _, masked = at_work(name, structure, network(nn.Linear(8, 8), nn.Linear(8, 8)), 0.5)
    for weight, mask in masked.masks.items():
        entries = masked.structure.reduce(mask.float())
        assert int((entries > 0).sum()) == entries.numel() / 2, weight
        assert int(mask.sum()) == mask.numel() / 2


def gradients_of(masked: MaskedModel, images: Tensor) -> dict[str, Tensor]:
    (masked.model(images) ** 2).sum().backward()
    return {name: score.grad for name, score in masked.scores.items()}


def test_sgd_moves_the_sum_of_scores_as_it_would_move_one_score_of_the_filter():
    model = network(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    _, masked = at_work("hydra", "filter", model, 0.5)
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
    method, masked = at_work("hydra", "filter", network(nn.Linear(3, 4), nn.Linear(4, 2)), 0.5)
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
    context = Context(0.5, objectives.create("benign"), torch.Generator().manual_seed(1), None, {})
    masked = attach(model, structure=part.structure)
    part.method(context).begin(FINETUNE, masked)
    for mask in masked.masks.values():
        kept = masked.structure.reduce(mask.float()) > 0
        if kept.numel() > 99:
            assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.1)
    if structure == "block":  # those of two rows at the edge are as likely as the others
        edge = masked.structure.reduce(masked.masks["1.weight"].float())[-1] > 0
        assert float(edge.float().mean()) == pytest.approx(0.5, abs=0.15)
