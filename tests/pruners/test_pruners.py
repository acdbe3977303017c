import pydantic
import pytest
import torch
from torch import nn

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import MaskedModel
from robustprune.pruners import Pruner
from robustprune.seeding import fork


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))
    nn.init.uniform_(model[3].weight, -10, 10)  # layers of unlike scale
    return model


def attached(pruner: Pruner, *, seed: int = 0, density: float = 0.1) -> MaskedModel:
    model = network()
    with fork(seed, "scores"):
        return pruner.attach(model, density)


def masks(whole: MaskedModel) -> torch.Tensor:
    return torch.cat([mask.mask.flatten() for mask in whole.masks.values()])


@pytest.mark.parametrize("name", pruners.names())
def test_every_pruner_masks_the_network_to_the_density(name):
    for density in (0.05, 0.5, 1.0):
        whole = attached(pruners.create(name), density=density)
        assert whole.kept == pytest.approx(density * 252, abs=2)
        assert whole.turnover == 0
        assert bool(whole.model(torch.rand(2, 2, 5, 5)).isfinite().all())


@pytest.mark.parametrize("name", pruners.names())
def test_every_pruner_takes_an_allocation(name):
    reports = {
        allocation: [r.kept for r in attached(pruners.create(name, allocation=allocation)).report()]
        for allocation in ("uniform", "erk")
    }
    assert reports["uniform"] == [7, 18]
    assert reports["erk"] == [6, 19]  # 12 and 41 share 25.2


@pytest.mark.parametrize("name", pruners.names())
def test_every_pruner_is_reproducible(name):
    pruner = pruners.create(name)
    assert torch.equal(masks(attached(pruner)), masks(attached(pruner)))


@pytest.mark.parametrize("name", pruners.names())
def test_every_pruner_is_documented_and_survives_its_own_document(name):
    pruner = pruners.create(name)
    assert type(pruner).__doc__
    document = pruner.model_dump(mode="json", serialize_as_any=True)
    assert document.pop("name") == name
    assert pruners.create(name, **document) == pruner


def test_hydra_alone_learns():
    kinds = {name: pruners.get(name).__base__ for name in pruners.names()}
    assert kinds == {
        "hydra": pruners.LearnedPruner,
        "magnitude": pruners.OneShotPruner,
        "random": pruners.OneShotPruner,
    }


def test_hydra_starts_layer_by_layer_from_the_mask_of_magnitude():
    hydra, magnitude = pruners.create("hydra"), pruners.create("magnitude")
    assert torch.equal(masks(attached(hydra)), masks(attached(magnitude)))


def test_hydra_takes_other_scores_to_start_from():
    usual, drawn = pruners.create("hydra"), pruners.create("hydra", scores="kaiming")
    assert not torch.equal(masks(attached(usual)), masks(attached(drawn)))
    with pytest.raises(UsageError, match="scaled_magnitude"):
        pruners.create("hydra", scores="largest")


def test_magnitude_keeps_the_largest_weights():
    whole = attached(pruners.create("magnitude"))
    for name, layer in {"0": network()[0], "3": network()[3]}.items():
        size, kept = layer.weight.detach().abs(), whole.masks[name].mask
        assert size[kept].min() > size[~kept].max()


def test_global_magnitude_compares_weights_across_layers():
    whole = attached(pruners.create("magnitude", allocation="global"))
    assert [report.kept for report in whole.report()] == [1, 24]


def test_random_follows_the_forked_generator_and_not_the_weights():
    pruner = pruners.create("random")
    assert not torch.equal(masks(attached(pruner)), masks(attached(pruner, seed=1)))
    shared = masks(attached(pruner)) & masks(attached(pruners.create("magnitude")))
    assert int(shared.sum()) < 12


def test_random_treats_layers_alike_under_one_threshold():
    unlike = nn.Sequential(nn.Linear(4, 256), nn.Linear(256, 4))  # bounds by fan would differ
    with fork(0, "scores"):
        whole = pruners.create("random", allocation="global").attach(unlike, 0.5)
    for report in whole.report():
        assert report.density == pytest.approx(0.5, abs=0.06)


def test_networks_are_named_by_label_or_pruner_and_density():
    assert pruners.create("hydra").network(0.01) == "hydra-0.01"
    assert pruners.create("hydra", label="mine").network(0.1) == "mine-0.1"
    assert pruners.create("random").network(1.0) == "random-1"


@pytest.mark.parametrize("label", ["", "../up", "a/b", "a b", ".hidden"])
def test_labels_that_are_no_folder_names_are_refused(label):
    with pytest.raises(UsageError, match="label"):
        pruners.create("hydra", label=label)


def test_a_pruner_without_a_method_says_what_it_lacks():
    class Mine(Pruner):
        pass

    with pytest.raises(TypeError, match="Mine must define attach"):
        Mine().attach(network(), 0.5)


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        pruners.create("hydra").train_norms = False
