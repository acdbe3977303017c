import pydantic
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import MaskedModel, attach
from robustprune.pruners import Pruner, Stage, reset_grown
from robustprune.types import Progress
from tests.pruners.nets import begun, context, network, sections

A, B = "0.weight", "3.weight"


def kept(masked: MaskedModel) -> torch.Tensor:
    return torch.cat([mask.flatten() for mask in masked.masks.values()])


def masks(pruner: Pruner, *, seed: int = 0) -> torch.Tensor:
    return kept(begun(pruner, seed=seed)[0])


def test_hydra_starts_layer_by_layer_from_the_mask_of_magnitude():
    assert torch.equal(masks(pruners.create("hydra")), masks(pruners.create("magnitude")))


def test_hydra_takes_other_scores_to_start_from():
    usual, drawn = pruners.create("hydra"), pruners.create("hydra", scores="kaiming")
    assert not torch.equal(masks(usual), masks(drawn))
    assert not torch.equal(masks(drawn), masks(drawn, seed=1))
    with pytest.raises(UsageError, match="scaled_magnitude"):
        pruners.create("hydra", scores="largest")


def test_magnitude_keeps_the_largest_weights():
    masked, _, _ = begun(pruners.create("magnitude"))
    for name, weight in masked.weights.items():
        size, mask = weight.detach().abs(), masked.masks[name]
        assert size[mask].min() > size[~mask].max()


def test_global_magnitude_compares_weights_across_layers():
    masked, _, _ = begun(pruners.create("magnitude", allocation="global"))
    assert [report.kept for report in masked.report()] == [1, 24]


def test_random_follows_the_generator_and_not_the_weights():
    pruner = pruners.create("random")
    assert not torch.equal(masks(pruner), masks(pruner, seed=1))
    shared = masks(pruner) & masks(pruners.create("magnitude"))
    assert int(shared.sum()) < 12


def test_random_treats_layers_alike_under_one_threshold():
    unlike = nn.Sequential(nn.Linear(4, 256), nn.Linear(256, 4))  # bounds by fan would differ
    masked, _, _ = begun(pruners.create("random", allocation="global"), 0.5, model=unlike)
    for report in masked.report():
        assert report.density == pytest.approx(0.5, abs=0.06)


def test_layers_that_are_left_out_stay_dense_and_the_density_counts_over_the_others():
    masked, _, _ = begun(pruners.create("magnitude", exclude=["3"]), 0.5)
    assert (masked.kept, masked.prunable) == (36, 72)
    assert bool(masked.model[3].weight.all())


@pytest.mark.parametrize("label", ["", "../up", "a/b", "a b", ".hidden"])
def test_labels_that_are_no_folder_names_are_refused(label):
    with pytest.raises(UsageError, match="label"):
        pruners.create("hydra", label=label)


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        pruners.create("hydra").train_norms = False


# -- stages ----------------------------------------------------------------------------------------


def test_a_pruner_says_what_it_lacks():
    class Mine(Pruner):
        pass

    with pytest.raises(TypeError, match=r"Mine must define stages\(density, recipe\)"):
        Mine().stages(0.5, {})
    with pytest.raises(TypeError, match=r"Mine must define method\(context\)"):
        Mine().method(context(pruners.create("magnitude")))


def test_hydra_prunes_and_finetunes_where_the_recipe_does():
    recipe = sections()
    found = pruners.create("hydra").stages(0.1, recipe)
    assert found == [Stage("prune", recipe["prune"]), Stage("finetune", recipe["finetune"])]
    del recipe["finetune"]
    assert [stage.name for stage in pruners.create("hydra").stages(0.1, recipe)] == ["prune"]


@pytest.mark.parametrize("name", ["magnitude", "random"])
def test_baselines_finetune_and_without_such_a_section_only_begin(name):
    recipe = sections()
    pruner, longer = pruners.create(name), pruners.create(name, equal_compute=True)
    assert pruner.stages(0.1, recipe) == [Stage("finetune", recipe["finetune"])]
    assert longer.stages(0.1, recipe)[0].options.epochs == 5  # 2 + 3
    assert recipe["finetune"].epochs == 3
    for one in (pruner, longer):
        assert one.stages(0.1, {"prune": recipe["prune"]}) == [Stage("finetune", None)]


@pytest.mark.parametrize(
    ("name", "options"), [("hydra", {}), ("magnitude", {"equal_compute": True})]
)
def test_a_section_that_is_missing_is_named_with_the_remedy(name, options):
    recipe = {key: value for key, value in sections().items() if key != "prune"}
    with pytest.raises(UsageError, match=rf"pruner '{name}' .* 'prune'.*--set prune\.epochs=10"):
        pruners.create(name, **options).stages(0.1, recipe)


# -- hydra's step ----------------------------------------------------------------------------------

NORMS = ["1.weight", "1.bias"]


def names(masked, tensors):
    own = {id(parameter): name for name, parameter in masked.model.named_parameters()}
    return [own[id(tensor)] for tensor in tensors]


@pytest.mark.parametrize(("norm_lr", "rates"), [(None, [50, 50]), (0.1, [50, 0.1])])
def test_norm_layers_can_have_a_rate_of_their_own(norm_lr, rates):
    pruner = pruners.create("hydra", norm_lr=norm_lr)
    masked, method = attach(network()), pruner.method(context(pruner))
    stage = pruner.stages(0.1, sections())[0]
    method.prepare(stage, masked)
    groups = method.param_groups(stage, masked)
    optimizer = torch.optim.SGD(groups, lr=50)
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert groups[0]["params"] == list(masked.scores.values())
    assert names(masked, groups[1]["params"]) == NORMS


def test_norm_layers_that_do_not_train_stand_in_eval_mode():
    pruner = pruners.create("hydra", train_norms=False)
    masked, method = attach(network()), pruner.method(context(pruner))
    prune, finetune = pruner.stages(0.1, sections())
    method.prepare(prune, masked)
    assert [len(group["params"]) for group in method.param_groups(prune, masked)] == [2]
    method.train_mode(prune, masked)
    assert not masked.model[1].training
    assert masked.model[0].training
    method.train_mode(finetune, masked)
    assert masked.model[1].training


def test_norm_layers_of_every_kind_are_found():
    layers = [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.RMSNorm(4)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.Sequential(nn.LayerNorm(16), nn.ReLU()))
    assert pruners.base.norm_layers(model) == [*layers, model[5][0]]


@pytest.mark.parametrize("cached", [True, False])
def test_a_step_on_the_scores_moves_the_mask_whether_weights_are_cached_or_not(cached):
    """Straight through, by hand: ds = g·w·sign(s), and the largest |s| are kept."""
    pruner = pruners.create("hydra", scores="magnitude")
    layer = nn.Linear(4, 2)
    masked, method = attach(layer), pruner.method(context(pruner, 0.5))
    stage = pruner.stages(0.5, sections())[0]
    method.prepare(stage, masked)
    method.begin(stage, masked)
    optimizer = torch.optim.SGD(method.param_groups(stage, masked), lr=20.0)
    weight, scores = masked.weights["weight"].detach(), masked.scores["weight"]
    images = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(6) % 2
    shown = torch.where(masked.masks["weight"], weight, 0.0)
    p = F.softmax(images @ shown.T + layer.bias, dim=1)
    gradient = (p - F.one_hot(labels, 2)).T @ images / 6
    expected = scores.detach() - 20.0 * gradient * weight * scores.detach().sign()

    def closure():
        F.cross_entropy(layer(images), labels).backward()

    def cached_closure():
        with masked.cached():
            closure()

    method.step(
        stage, masked, cached_closure if cached else closure, optimizer, Progress(stage="prune")
    )
    method.after_step(stage, masked, optimizer, None)
    torch.testing.assert_close(scores.detach(), expected)
    mask = masked.masks["weight"]
    assert expected.abs()[mask].min() > expected.abs()[~mask].max()
    assert masked.turnover > 0


# -- weights that come back ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_weights_that_have_grown_start_anew_in_every_tensor_of_the_optimizer(kind, value):
    masked = attach(network())
    more = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
    optimizer = getattr(torch.optim, kind)(
        masked.weight_parameters(), lr=0.1, weight_decay=0.1, **more
    )
    half = torch.arange(180).view(5, 36) % 2 == 0
    masked.set({B: half})
    for _ in range(2):
        optimizer.zero_grad()
        masked.model(torch.rand(3, 2, 5, 5)).square().sum().backward()
        optimizer.step()
    weight = masked.weights[B]
    state = [t for t in optimizer.state[weight].values() if getattr(t, "shape", None) == (5, 36)]
    assert state
    before = [tensor.clone() for tensor in (weight, *state)]
    grown = torch.zeros(5, 36, dtype=torch.bool)
    grown[1, 1] = grown[2, 3] = True
    assert not bool((grown & half).any())
    reset_grown(masked, optimizer, masked.set({B: half | grown}), value)
    assert weight[grown].tolist() == [value, value]
    for tensor, was in zip(state, before[1:], strict=True):
        assert not bool(tensor[grown].any())
        assert torch.equal(tensor[~grown], was[~grown])
    assert torch.equal(weight[~grown], before[0][~grown])


def test_an_optimizer_that_does_not_train_a_weight_stays_as_it_is():
    masked = attach(network())
    masked.set({B: torch.zeros(5, 36, dtype=torch.bool)})
    optimizer = torch.optim.SGD([masked.weights[A]], lr=0.1, momentum=0.9)
    change = masked.set({B: torch.ones(5, 36, dtype=torch.bool)})
    reset_grown(masked, optimizer, change)
    assert not optimizer.state_dict()["state"]
    reset_grown(masked, None, change, 2.0)
    assert bool((masked.weights[B] == 2).all())
