import pytest
import torch
from torch import nn

from robustprune.artifacts.normalisation import folded
from robustprune.errors import UsageError
from robustprune.models import create_model
from robustprune.models.normalize import Normalized
from tests import masks

MEAN, STD = [0.4, 0.5, 0.1], [0.2, 0.25, 0.5]


class Net(nn.Sequential):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def normalised(conv: nn.Conv2d, mean=MEAN, std=STD) -> Normalized:
    torch.manual_seed(0)
    return Normalized(Net(conv), mean=mean, std=std).eval()


def assert_same_logits(model: nn.Module, bare: nn.Module, size: int = 16) -> None:
    images = torch.rand(3, 3, size, size)
    assert torch.allclose(model(images), bare(images), atol=1e-5)


def test_one_weight_by_hand():
    model = normalised(nn.Conv2d(1, 1, 1), mean=[0.5], std=[0.25])
    with torch.no_grad():
        model.backbone[0].weight.fill_(2)
        model.backbone[0].bias.fill_(1)
    bare, layer = folded(model, image_size=4)
    assert (layer, bare[0].weight.item(), bare[0].bias.item()) == ("0", 8, -3)  # 2(x - ½)/¼ + 1


@pytest.mark.parametrize("padding", [0, "valid", (0, 0)])
def test_a_first_layer_with_bias_and_without_padding_takes_it(padding):
    model = normalised(nn.Conv2d(3, 4, 3, stride=2, padding=padding))
    assert_same_logits(model, folded(model, image_size=16)[0])


def test_padding_and_no_bias_do_no_harm_where_the_mean_is_0():
    model = normalised(nn.Conv2d(3, 4, 3, padding=1, bias=False), mean=[0.0] * 3)
    assert_same_logits(model, folded(model, image_size=16)[0])


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_networks_that_cut_images_into_patches_take_it(name):
    size = 160 if name == "test_vit" else 64
    model = create_model(name, num_classes=10, image_size=size).eval()
    bare, layer = folded(model, image_size=size)
    assert layer in ("patch_embed.proj", "stem.0")
    assert_same_logits(model, bare, size)


def test_pruned_weights_stay_0_and_the_network_stays_as_it_was():
    model = normalised(nn.Conv2d(3, 4, 3))
    kept = masks.pruned(model, 0.1).bake()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bare, _ = folded(model, image_size=16)
    assert not bare[0].weight[~kept["backbone.0.weight"]].any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Conv2d(3, 4, 3, padding="same"),
    ],
    ids=str,
)
def test_it_is_refused_where_it_would_not_be_exact(conv):
    with pytest.raises(UsageError, match=r"only if that has a bias and no padding.*inside"):
        folded(normalised(conv), image_size=16)


def test_it_is_refused_for_a_grouped_first_layer():
    with pytest.raises(UsageError, match="no ordinary convolution"):
        folded(normalised(nn.Conv2d(3, 3, 3, groups=3)), image_size=16)


def test_it_is_refused_where_the_images_go_elsewhere_too():
    class Twice(Net):
        def forward(self, x):
            return super().forward(x) + x.mean()

    model = Normalized(Twice(nn.Conv2d(3, 4, 3)), mean=MEAN, std=STD)
    with pytest.raises(UsageError, match="uses its images elsewhere than in its first layer, '0'"):
        folded(model, image_size=16)
