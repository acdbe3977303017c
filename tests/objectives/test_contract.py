import pytest
import torch

from robustprune.errors import UsageError
from robustprune.objectives import Loss, Objective, create, names
from robustprune.types import Progress
from tests.masks import learning

from .toys import batch, modes, network

OURS = {
    *("benign", "pgd", "fgsm", "trades", "free", "gaussian", "stability", "smoothadv"),
    *("ibp", "crown_ibp", "mixtrain"),
    "pwoa",
}


@pytest.fixture(params=sorted(OURS | set(names())))
def objective(request):
    objective = create(request.param)
    objective.bind({need: trained() for need in objective.needs})
    return objective


def trained():
    """Another network than the one that is trained."""
    model = network().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1)
    return model


def test_total_is_a_finite_scalar_whose_gradient_reaches_every_parameter(objective):
    model, (images, labels) = network(), batch()
    loss = objective(model, images, labels, Progress())
    assert loss.total.shape == ()
    assert loss.total.isfinite()
    assert loss.logits.shape == (6, 5)
    assert all(part.shape == () for part in loss.parts.values())
    loss.total.backward()
    objective.after_backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model[0].weight.grad.any()
    assert model[5].weight.grad.any()


def test_images_and_labels_are_left_alone(objective):
    model, (images, labels) = network(), batch()
    copies = images.clone(), labels.clone()
    objective(model, images, labels, Progress()).total.backward()
    objective.after_backward()
    assert torch.equal(images, copies[0])
    assert torch.equal(labels, copies[1])
    assert not images.requires_grad


def test_modes_are_restored_module_by_module(objective):
    model, (images, labels) = network(dropout=0.5), batch()
    model[1].eval()
    before = modes(model)
    objective(model, images, labels, Progress())
    assert modes(model) == before
    model.eval()
    objective(model, images, labels, Progress())
    assert not any(modes(model))


def test_kept_statistics_stay_kept(objective):
    model, (images, labels) = network(), batch()
    model[1].eval()
    before = model[1].running_mean.clone()
    objective(model, images, labels, Progress())
    assert torch.equal(model[1].running_mean, before)


def test_one_image_is_a_batch(objective):
    model, (images, labels) = network(), batch()
    assert objective(model, images[:1], labels[:1], Progress()).total.isfinite()


def test_channels_last(objective):
    model, (images, labels) = network(), batch()
    model = model.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    loss = objective(model, images, labels, Progress())
    loss.total.backward()
    assert model[0].weight.grad.isfinite().all()


def test_the_same_generator_state_gives_the_same_loss(objective):
    images, labels = batch()
    totals = []
    for each in (objective.fresh(), objective.fresh()):
        model = network()
        torch.manual_seed(4)
        totals.append(each(model, images, labels, Progress()).total)
    assert torch.equal(*totals)


def masked_network():
    return learning(network(), density=0.5)


def test_scores_learn_while_weights_are_frozen(objective):
    masked, (images, labels) = masked_network(), batch()
    with masked.cached():
        objective(masked.model, images, labels, Progress()).total.backward()
        objective.after_backward()
    for scores in masked.scores.values():
        assert scores.grad.isfinite().all()
        assert scores.grad.any()
    assert all(parameter.grad is None for parameter in masked.weight_parameters())


def test_cached_and_plain_masks_give_the_same_loss_and_gradients(objective):
    images, labels = batch()
    plain, shared = masked_network(), masked_network()
    torch.manual_seed(3)
    one = objective.fresh()(plain.model, images, labels, Progress()).total
    one.backward()
    torch.manual_seed(3)
    with shared.cached():
        two = objective.fresh()(shared.model, images, labels, Progress()).total
        two.backward()
    assert torch.equal(one, two)
    for first, second in zip(plain.scores.values(), shared.scores.values(), strict=True):
        assert torch.allclose(first.grad, second.grad, rtol=1e-5, atol=1e-8)


def test_a_mask_hides_what_it_prunes(objective):
    """What is pruned has no say: other values there, the same loss."""
    images, labels = batch()
    totals = []
    for junk in (0.0, 7.0):
        masked = masked_network()
        for name, mask in masked.masks.items():
            masked.weights[name].data[~mask] = junk
        torch.manual_seed(3)
        with masked.cached():
            totals.append(objective.fresh()(masked.model, images, labels, Progress()).total)
    assert torch.equal(*totals)


def test_the_attack_apart_gives_the_loss_of_the_call(objective):
    """What is attacked once can be used again: it is no part of any graph but its own."""
    assert objective.attacks_apart
    images, labels = batch()
    torch.manual_seed(3)
    expected = objective.fresh()(network(), images, labels, Progress()).total
    torch.manual_seed(3)
    model, mine = network(), objective.fresh()
    attacked = mine.attack(model, images, labels, Progress())
    assert attacked is None or attacked.is_leaf
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(mine.loss(model, images, attacked, labels, Progress()).total, expected)


def test_an_objective_may_define_its_call_alone():
    class Mine(Objective):
        def __call__(self, model, images, labels, progress):
            logits = model(images)
            return Loss(logits.square().mean(), logits, {})

    class Nothing(Objective):
        pass

    images, labels = batch()
    assert not Mine().attacks_apart
    assert Mine()(network(), images, labels, Progress()).total > 0
    with pytest.raises(TypeError, match="Nothing must define loss"):
        Nothing()(network(), images, labels, Progress())


def test_benign_is_cross_entropy():
    images, labels = batch()
    loss = create("benign")(network(), images, labels, Progress())
    expected = torch.nn.functional.cross_entropy(network()(images), labels)
    assert torch.equal(loss.total, expected)


def test_unknown_options_are_named():
    with pytest.raises(UsageError, match=r"'epsilon'.*eps"):
        create("trades", epsilon=1)
