from __future__ import annotations

import copy
import sys

import pytest
import timm
import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.models import BACKBONES, create_model
from robustprune.models.architectures import BasicBlock, WideBlock
from robustprune.models.registration import register_backbone
from robustprune.seeding import fork

PRUNABLE = {
    "cnn_small": 3 * 16 * 16 + 16 * 32 * 16 + 2048 * 100 + 100 * 10,
    "cnn_small_bn": 214_760,
    "cnn_large": 2_465_632,
    "resnet8_cifar": 16 * 27
    + 9 * (2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    + 16 * 32
    + 32 * 64
    + 64 * 10,
    "cnn_digits_bn": 32 * 25 + 64 * 32 * 9 + 64 * 4 * 4 * 10,
    "cnn_digits": 32 * 25 + 64 * 32 * 9 + 64 * 4 * 4 * 10,
    "vgg16_bn_cifar": 15_302_848,
}
PARAMETERS = {"resnet18_cifar": 11_173_962, "wrn_28_10": 36_479_194}  # as published
LIGHT = sorted(set(BACKBONES) - {"wrn_28_10"})


def shape(name: str) -> tuple[int, int]:
    """Channels and size of the images a backbone is meant for."""
    return (1, 8) if name.startswith("cnn_digits") else (3, 32)


def network(name: str, *, seed: int = 0, num_classes: int = 10) -> nn.Module:
    with fork(seed):
        channels, size = shape(name)
        return create_model(name, num_classes=num_classes, in_chans=channels, image_size=size)


def images(name: str, count: int) -> torch.Tensor:
    channels, size = shape(name)
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def test_backbones_are_described() -> None:
    assert all(backbone.summary for backbone in BACKBONES.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_every_backbone_keeps_the_contract(name: str) -> None:
    model, x = network(name, num_classes=7), images(name, 3).requires_grad_()
    before = x.detach().clone()
    logits = model(x)
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert torch.equal(x.detach(), before)
    assert [key for key, value in model.named_parameters() if value.grad is None] == []
    assert not [m for m in model.modules() if getattr(m, "inplace", False)]
    model.eval()
    with torch.no_grad():
        first, again, alone = model(x), model(x), model(x[:1])
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert torch.allclose(first[:1], alone, atol=1e-5)  # images do not influence each other


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_small_bn", "resnet18_cifar"])
def test_the_seed_decides_the_weights(name: str) -> None:
    first, again, other = network(name), network(name), network(name, seed=1)
    states = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(layers(first)[0].weight, layers(other)[0].weight)


@pytest.mark.parametrize("name", sorted(PRUNABLE))
def test_number_of_prunable_weights(name: str) -> None:
    assert sum(layer.weight.numel() for layer in layers(network(name))) == PRUNABLE[name]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_number_of_parameters_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_the_small_networks_end_in_a_7x7_map_for_mnist() -> None:
    for name, channels in (("cnn_small", 32), ("cnn_small_bn", 32), ("cnn_large", 64)):
        model = create_model(name, in_chans=1)
        first_linear = next(layer for layer in layers(model) if isinstance(layer, nn.Linear))
        assert first_linear.in_features == channels * 7 * 7
        assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_cnn_small_is_the_paper_s_network_layer_by_layer() -> None:
    first, second, third, fourth = layers(network("cnn_small"))
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert (first.stride, first.padding, second.stride) == ((2, 2), (1, 1), (2, 2))
    shapes = [tuple(layer.weight.shape) for layer in (first, second, third, fourth)]
    assert shapes == [(16, 3, 4, 4), (32, 16, 4, 4), (100, 2048), (10, 100)]


@pytest.mark.slow
def test_parameter_names_are_the_field_s() -> None:
    expected = {
        "cnn_small": {"0.weight", "2.weight", "5.weight", "7.bias"},
        "cnn_small_bn": {"0.weight", "1.running_mean", "3.weight", "7.weight", "9.bias"},
        "vgg16_bn_cifar": {"features.0.weight", "features.40.weight", "features.41.running_var"}
        | {"classifier.0.weight", "classifier.2.weight", "classifier.4.bias"},
        "wrn_28_4": {"conv1.weight", "block1.layer.0.bn1.weight", "block1.layer.0.conv1.weight"}
        | {"block2.layer.0.convShortcut.weight", "block3.layer.3.conv2.weight"}
        | {"bn1.running_mean", "fc.weight", "fc.bias"},
        "resnet18_cifar": {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"}
        | {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_var"}
        | {"layer4.1.bn2.bias", "linear.weight"},
    }
    for name, keys in expected.items():
        assert keys <= network(name).state_dict().keys(), name


def test_shortcuts_are_only_where_shapes_change() -> None:
    wide, plain = network("wrn_28_4").state_dict(), network("resnet18_cifar").state_dict()
    assert sum("convShortcut" in key for key in wide) == 3
    assert sum(key.endswith("shortcut.0.weight") for key in plain) == 3
    assert len([key for key in wide if key.endswith("conv2.weight")]) == 12


def test_vgg_has_13_convolutions_without_bias_and_four_pools() -> None:
    model = network("vgg16_bn_cifar")
    convolutions = [layer for layer in layers(model) if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    assert all(layer.bias is None for layer in convolutions)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in model.modules()) == 4


def test_wide_resnet_block_by_hand() -> None:
    block = WideBlock(1, 1).eval()
    for layer in layers(block):
        nn.init.dirac_(layer.weight)
    x = torch.tensor([-1.0, 2.0]).view(1, 1, 1, 2)
    scale = 1 / (1 + block.bn1.eps)  # of two norm layers with running variance 1
    assert torch.allclose(block(x), x + x.clamp(min=0) * scale, atol=1e-6)


def test_wide_resnet_s_1x1_convolution_sees_the_activated_input() -> None:
    block = WideBlock(1, 2).eval()
    assert block.convShortcut is not None
    nn.init.zeros_(block.conv2.weight)
    nn.init.ones_(block.convShortcut.weight)
    out = block(torch.tensor([-1.0, 2.0]).view(1, 1, 1, 2))
    assert out.flatten().tolist() == pytest.approx([0.0, 2.0, 0.0, 2.0], abs=1e-4)


def test_basic_block_by_hand() -> None:
    block = BasicBlock(1, 1).eval()
    for layer in layers(block):
        nn.init.dirac_(layer.weight)
    out = block(torch.tensor([-1.0, 2.0]).view(1, 1, 1, 2))
    assert out.flatten().tolist() == pytest.approx([0.0, 4.0], abs=1e-4)


def test_convolutions_start_kaiming_normal_and_biases_at_zero() -> None:
    model = network("vgg16_bn_cifar")
    last = layers(model)[12]
    assert last.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    biases = [value for key, value in model.named_parameters() if key.endswith("bias")]
    assert all(not bias.any() for bias in biases)


@pytest.mark.parametrize("name", LIGHT)
def test_ours_need_no_timm_and_can_be_copied(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it fails
    with torch.device("meta"):
        model = network(name)
    assert isinstance(copy.deepcopy(model), nn.Sequential)


def test_one_s_own_is_registered_with_timm_and_has_no_pretrained_weights() -> None:
    @register_backbone
    def my_pixels(*, num_classes: int = 10, in_chans: int = 3) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(1), nn.Linear(in_chans * 4, num_classes))

    assert create_model("my_pixels", num_classes=3)(torch.rand(1, 3, 2, 2)).shape == (1, 3)
    assert timm.create_model("my_pixels", in_chans=1)(torch.rand(1, 1, 2, 2)).shape == (1, 10)
    with pytest.raises(UsageError, match="cannot be built with width=3"):
        create_model("my_pixels", width=3)
    with pytest.raises(UsageError, match="no pretrained weights"):
        timm.create_model("my_pixels", pretrained=True)
