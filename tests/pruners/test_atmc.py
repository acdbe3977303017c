import pytest
import torch
from torch import nn

from robustprune import objectives, pruners
from robustprune.masking import attach
from robustprune.pruners.atmc import Factors, clustered
from tests.pruners.nets import at_work, context, linear, network, progress, sections


def working(model, density, **options):
    """A method whose stages have been begun one after the other by the caller, and its network."""
    method, masked, stages = at_work("atmc", model, density, **options)
    return method, masked, {stage.name: stage for stage in stages}


def enter(method, masked, stage):
    method.prepare(stage, masked)
    method.begin(stage, masked)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (2, 2, 1, 3)])
def test_factors_multiply_out(shape):
    torch.manual_seed(0)
    weight = torch.rand(shape)
    factors = Factors(weight)
    rows, columns = weight.flatten(1).shape
    a = torch.rand(min(rows, columns), min(rows, columns))
    b = torch.rand(rows, columns)
    factors.square.data, factors.other.data = a, b
    expected = b.clone()
    for i in range(rows):
        for j in range(columns):
            for k in range(len(a)):  # B·A, or A·B where there are fewer rows than columns
                expected[i, j] += b[i, k] * a[k, j] if columns <= rows else a[i, k] * b[k, j]
    torch.testing.assert_close(factors(weight), weight + expected.view(shape))


def test_weights_are_projected_after_each_step_and_can_come_back():
    method, masked, stages = working(linear([4.0, -3.0, 2.0, 1.0]), 0.5)
    weight = masked.weights["1.weight"]
    enter(method, masked, stages["project"])
    method.after_step(stages["project"], masked, None, progress(0))
    assert weight.tolist() == [[4.0, -3.0, 0.0, 0.0]]
    weight.data[0, 3] = -5.0  # as by an optimizer's step
    method.after_step(stages["project"], masked, None, progress(1))
    assert weight.tolist() == [[4.0, 0.0, 0.0, -5.0]]
    assert masked.kept == 4  # no mask yet


def test_factorising_leaves_the_network_as_it_is():
    method, masked, stages = working(network(), 0.5)
    images = torch.rand(3, 2, 5, 5)
    before = masked.model.eval()(images)
    enter(method, masked, stages["factorise"])
    torch.testing.assert_close(masked.model.eval()(images), before)
    assert not any(weight.any() for weight in masked.weights.values())  # C
    assert not any(factors.square.any() for factors in method.factors.values())  # A


def test_factors_share_one_budget_and_the_largest_stay():
    """Against a sort of everything; 252 weights, half of them, in four times as many entries."""
    method, masked, stages = working(network(), 0.5)
    enter(method, masked, stages["factorise"])
    torch.manual_seed(3)
    parts = [*masked.weights.values()]
    parts += [p for factors in method.factors.values() for p in factors.parameters()]
    for part in parts:
        part.data = torch.randn(part.shape)
    before = torch.cat([part.data.reshape(-1) for part in parts])
    method.after_step(stages["factorise"], masked, None, progress(0))
    after = torch.cat([part.data.reshape(-1) for part in parts])
    threshold = before.abs().sort(descending=True)[0][125]
    assert int(after.count_nonzero()) == 126
    torch.testing.assert_close(after, torch.where(before.abs() >= threshold, before, 0.0))


def test_a_minimum_for_filters_is_none_for_factors():
    allocation = {"name": "uniform", "minimum": 2}
    method, masked, stages = working(network(), 0.5, allocation=allocation)
    enter(method, masked, stages["factorise"])
    for part in method._parts(masked).values():
        for tensor in part:
            tensor.data = torch.randn(tensor.shape)
    method.after_step(stages["factorise"], masked, None, progress(0))
    entries = [p for parts in method._parts(masked).values() for p in parts]
    assert sum(int(p.count_nonzero()) for p in entries) == pytest.approx(126, abs=1)


def test_an_allocation_that_factors_cannot_have_is_refused():
    pruner = pruners.create("atmc", allocation="uniform_plus")
    stage, benign = pruner.stages(0.5, sections())[0], objectives.create("benign")
    (said,) = pruner.problems(stage, benign)
    assert "use allocation: global" in said
    assert not list(pruners.create("atmc").problems(stage, benign))


def test_the_mask_keeps_the_largest_of_the_product_and_factors_no_longer_train():
    method, masked, stages = working(linear([4.0, -3.0, 2.0, 1.0]), 0.5)
    enter(method, masked, stages["factorise"])
    factors = method.factors["1.weight"]
    factors.square.data[:] = -0.5  # halves what B = W holds
    masked.weights["1.weight"].data[0, 3] = 3.0
    enter(method, masked, stages["finetune"])
    assert masked.masks["1.weight"].tolist() == [[True, False, False, True]]
    assert masked.weights["1.weight"].tolist() == [[2.0, -1.5, 1.0, 3.5]]
    assert masked.model[1].weight.tolist() == [[2.0, 0.0, 0.0, 3.5]]
    (group,) = method.param_groups(stages["finetune"], masked)
    assert [tuple(p.shape) for p in group["params"]] == [(1, 4)]
    assert len(method.param_groups(stages["factorise"], masked)[0]["params"]) == 3
    masked.bake()
    assert masked.model[1].weight.tolist() == [[2.0, 0.0, 0.0, 3.5]]


def test_the_products_density_is_shown_and_what_lies_outside_of_b():
    method, masked, stages = working(linear([4.0, 0.0, 2.0, 1.0]), 0.5)
    enter(method, masked, stages["factorise"])
    curves = method.after_epoch(stages["factorise"], masked, None, progress(0), {})
    assert curves == {"product_density": 0.75, "outside_b": 0.0}
    masked.weights["1.weight"].data[0, 1] = 1.0  # C: the fourth entry of factors
    curves = method.after_epoch(stages["factorise"], masked, None, progress(0), {})
    assert curves == {"product_density": 1.0, "outside_b": 0.25}


def test_bits_add_a_stage_after_which_each_layer_has_few_values():
    method, masked, stages = working(network(), 0.5, bits=2, allocation="uniform")
    assert list(stages) == ["project", "factorise", "finetune", "quantise"]
    assert stages["quantise"].options is None
    for stage in stages.values():
        before = {name: weight.clone() for name, weight in masked.weights.items()}
        enter(method, masked, stage)
    for name, mask in masked.masks.items():
        weight = masked.weights[name].detach()
        assert len(weight[mask].unique()) == 4
        assert torch.equal(weight[~mask], before[name][~mask])
        assert (weight[mask] - before[name][mask]).abs().max() < before[name].abs().max()


def test_without_bits_there_is_none():
    names = [stage.name for stage in pruners.create("atmc").stages(0.1, sections())]
    assert names == ["project", "factorise", "finetune"]


def test_clusters_by_hand():
    values = torch.tensor([5.0, 0.0, 1.25, 5.5, 0.5, 1.75])
    assert clustered(values, 3).tolist() == [5.25, 0.25, 1.5, 5.25, 0.25, 1.5]
    assert torch.equal(clustered(values, 6), values)


def test_clusters_are_a_fixed_point():
    """Each value has gone to the nearest mean, and each mean is that of its values."""
    values = torch.randn(500, generator=torch.Generator().manual_seed(1))
    found = clustered(values, 8)
    means = found.unique()
    assert len(means) == 8
    nearest = (values[:, None] - means).abs().argmin(1)
    torch.testing.assert_close(found, means[nearest])
    own = torch.stack([values[found == mean].mean() for mean in means])
    torch.testing.assert_close(own, means, rtol=0, atol=1e-3)


def test_a_shared_weight_has_one_product():
    torch.manual_seed(0)
    one, other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    other.weight = one.weight
    masked = attach(nn.Sequential(nn.Flatten(), one, other))
    pruner = pruners.create("atmc")
    method = pruner.method(context(pruner, 0.5))
    before = masked.model(torch.ones(1, 3))
    enter(method, masked, pruner.stages(0.5, sections())[1])
    assert len(method.factors) == 1
    torch.testing.assert_close(masked.model(torch.ones(1, 3)), before)
