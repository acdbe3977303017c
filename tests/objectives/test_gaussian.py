import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustprune.objectives import create
from robustprune.types import Progress

from .toys import batch, network


def seen(objective, images, labels):
    """What the network is given, call by call."""
    inputs = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 5))
    model.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    objective(model, images, labels, Progress())
    return inputs


def test_the_noise_has_the_stated_deviation_and_is_not_clipped():
    torch.manual_seed(0)
    images, labels = torch.rand(50, 3, 20, 20), torch.zeros(50, dtype=torch.int64)
    (noisy,) = seen(create("gaussian", sigma=0.4), images, labels)
    noise = noisy - images
    assert noise.std().item() == pytest.approx(0.4, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noisy.min() < -0.5
    assert noisy.max() > 1.5


def test_each_image_has_its_own_noise():
    images, labels = torch.zeros(2, 3, 6, 6), torch.zeros(2, dtype=torch.int64)
    (noisy,) = seen(create("gaussian"), images, labels)
    assert not torch.equal(noisy[0], noisy[1])


def test_total_is_cross_entropy_on_the_noisy_images():
    images, labels = batch()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    logits = network()(images + 0.3 * noise)
    model = network()
    torch.manual_seed(5)
    loss = create("gaussian", sigma=0.3)(model, images, labels, Progress())
    assert loss.total.item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert torch.allclose(loss.logits, logits)


def test_no_noise_leaves_cross_entropy():
    images, labels = batch()
    loss = create("gaussian", sigma=0)(network(), images, labels, Progress())
    assert torch.equal(loss.total, F.cross_entropy(network()(images), labels))


def test_the_network_keeps_its_mode():
    images, labels = batch()
    model = network()
    create("gaussian")(model, images, labels, Progress())
    assert model[1].num_batches_tracked == 1
    assert model.training
