import pytest
import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.objectives import create, names
from robustprune.types import Progress

from .toys import batch, modes, network

OURS = {
    *("benign", "pgd", "fgsm", "trades", "free", "gaussian", "stability", "smoothadv"),
    *("ibp", "crown_ibp", "mixtrain"),
}


@pytest.fixture(params=sorted(OURS | set(names())))
def objective(request):
    return create(request.param)


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
    model = network()
    masked = attach(model, density=0.5)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for scores in masked.score_parameters():
        scores.requires_grad_(True)
    return masked


def test_scores_learn_while_weights_are_frozen(objective):
    masked, (images, labels) = masked_network(), batch()
    with masked.materialised():
        objective(masked.model, images, labels, Progress()).total.backward()
        objective.after_backward()
    for scores in masked.score_parameters():
        assert scores.grad.isfinite().all()
        assert scores.grad.any()
    scores = {id(parameter) for parameter in masked.score_parameters()}
    rest = [p for p in masked.model.parameters() if id(p) not in scores]
    assert all(parameter.grad is None for parameter in rest)


def test_materialised_and_plain_masks_give_the_same_loss_and_gradients(objective):
    images, labels = batch()
    plain, shared = masked_network(), masked_network()
    torch.manual_seed(3)
    one = objective.fresh()(plain.model, images, labels, Progress()).total
    one.backward()
    torch.manual_seed(3)
    with shared.materialised():
        two = objective.fresh()(shared.model, images, labels, Progress()).total
        two.backward()
    assert torch.equal(one, two)
    for first, second in zip(plain.score_parameters(), shared.score_parameters(), strict=True):
        assert torch.allclose(first.grad, second.grad, rtol=1e-5, atol=1e-8)


def test_a_mask_hides_what_it_prunes(objective):
    """What is pruned has no say: other values there, the same loss."""
    images, labels = batch()
    totals = []
    for junk in (0.0, 7.0):
        masked = masked_network()
        for layer in masked.model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                parametrization = layer.parametrizations["weight"]
                parametrization.original.data[~parametrization[0].mask] = junk
        torch.manual_seed(3)
        with masked.materialised():
            totals.append(objective.fresh()(masked.model, images, labels, Progress()).total)
    assert torch.equal(*totals)


def test_benign_is_cross_entropy():
    images, labels = batch()
    loss = create("benign")(network(), images, labels, Progress())
    expected = torch.nn.functional.cross_entropy(network()(images), labels)
    assert torch.equal(loss.total, expected)


def test_unknown_options_are_named():
    with pytest.raises(UsageError, match=r"'epsilon'.*eps"):
        create("trades", epsilon=1)
