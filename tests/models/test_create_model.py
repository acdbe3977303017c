from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from timm.models import register_model
from torch import nn

from robustprune.errors import UsageError
from robustprune.models import check_name, create_model
from robustprune.models.factory import Normalized


def timm_images(size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_our_names_are_known_without_timm_which_takes_seconds_to_import() -> None:
    code = (
        "import sys, robustprune.models as m\n"
        "m.check_name('cnn_small'); m.ModelOptions(name='cnn_small')\n"
        "m.ModelOptions(name='wrn_28_10').resolved(num_classes=10, in_chans=3, image_size=32)\n"
        "assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_timm_model_is_normalised_as_its_pretrained_weights_are() -> None:
    model = create_model("resnet18", num_classes=5).eval()
    assert isinstance(model, Normalized)
    x = timm_images()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(model(x), model.backbone((x - mean) / std), atol=1e-6)
    assert model(x).shape == (2, 5)
    assert sum(p.numel() for p in model.parameters()) == 11_176_512 + 512 * 5 + 5


def test_mean_and_std_of_ours_by_hand() -> None:
    model = create_model("cnn_small", mean=[0.5, 0.0, 0.0], std=[1.0, 0.5, 1.0])
    assert isinstance(model, Normalized)
    normalised = model.normalize(torch.full((1, 3, 1, 1), 0.25))
    assert normalised.flatten().tolist() == pytest.approx([-0.25, 0.5, 0.25])


def test_mean_0_and_std_1_give_the_bare_backbone() -> None:
    assert isinstance(create_model("cnn_small"), nn.Sequential)
    bare = create_model("resnet18", mean=[0, 0, 0], std=[1, 1, 1])
    assert "conv1.weight" in bare.state_dict()


def test_normalisation_is_an_option_and_no_part_of_the_weights() -> None:
    keys = create_model("resnet18").state_dict()
    assert all(key.startswith("backbone.") for key in keys)


def test_grey_images_get_the_average_normalisation_of_timm() -> None:
    model = create_model("resnet18", in_chans=1)
    assert isinstance(model, Normalized)
    assert model.normalize.mean.flatten().tolist() == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert model.eval()(timm_images(channels=1)).shape == (2, 10)


def test_image_size_reaches_the_models_that_are_built_for_one() -> None:
    model = create_model("vit_tiny_patch16_224", image_size=32).eval()
    assert model(timm_images()).shape == (2, 10)
    assert create_model("cnn_small", image_size=28)(timm_images(28)).shape == (2, 10)
    assert create_model("resnet18_cifar", image_size=16)(timm_images(16)).shape == (2, 10)


def test_an_argument_wins_over_the_dataset_s_size() -> None:
    model = create_model("vit_tiny_patch16_224", image_size=32, img_size=48).eval()
    assert model(timm_images(48)).shape == (2, 10)


def test_arguments_reach_timm_s_constructor() -> None:
    model = create_model("resnet18", mean=[0, 0, 0], std=[1, 1, 1], drop_rate=0.25)
    assert model.drop_rate == 0.25


def test_a_name_may_have_a_tag() -> None:
    check_name("resnet18.a1_in1k")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnn_smal", "unknown model 'cnn_smal'. Did you mean 'cnn_small'"),
        ("resnt18", "Did you mean 'resnet18'"),
        ("resnet18.a9_in1k", "resnet18.a1_in1k"),
        ("cnn_small.tag", "Did you mean 'cnn_small'"),
        ("hf-hub:someone/model", "give the name of an architecture"),
        ("", "unknown model ''"),
    ],
)
def test_unknown_name_shows_what_would_have_worked(name: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        create_model(name)
    assert message in str(error.value)


def test_no_name_is_shown_twice() -> None:
    create_model("cnn_small")  # now timm lists it, too
    with pytest.raises(UsageError) as error:
        check_name("cnn_smal")
    shown = str(error.value).partition("choices: ")[2].rstrip(".").split(", ")
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize("name", ["resnet18", "cnn_small"])
def test_wrong_argument_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="dropout_rat") as error:
        create_model(name, dropout_rat=0.1)
    remedy = "among the arguments of the model; in a recipe they are under model.args."
    assert str(error.value).endswith(remedy)


def test_weights_are_never_loaded() -> None:
    with pytest.raises(UsageError, match="checkpoint_path, pretrained"):
        create_model("resnet18", pretrained=True, checkpoint_path="x.pt")


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"mean": [0.5]}, "1 values for 3 input channels"),
        ({"std": [1.0, 1.0]}, "2 values for 3 input channels"),
        ({"std": [1.0, 0.0, 1.0]}, "above 0"),
        ({"std": [1.0, float("nan"), 1.0]}, "above 0"),
    ],
)
def test_statistics_must_fit_the_channels(statistics: dict[str, list[float]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model("cnn_small", **statistics)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "size"), [("cnn_small", 3), ("vgg16_bn_cifar", 8)])
def test_too_small_images_are_refused(name: str, size: int) -> None:
    with pytest.raises(UsageError, match="at least"):
        create_model(name, image_size=size)


def test_a_model_of_the_user_s_needs_timm_s_decorator_only() -> None:
    @register_model
    def my_linear_net(pretrained: bool = False, **options: int) -> nn.Module:
        pixels = options["in_chans"] * 32 * 32
        return nn.Sequential(nn.Flatten(1), nn.Linear(pixels, options["num_classes"]))

    model = create_model("my_linear_net", num_classes=4, image_size=32)
    assert isinstance(model, nn.Sequential)
    assert model(timm_images()).shape == (2, 4)


def test_a_fault_without_arguments_keeps_its_own_type() -> None:
    @register_model
    def my_broken_net(pretrained: bool = False, **options: int) -> nn.Module:
        raise AttributeError("a fault of the model's author")

    with pytest.raises(AttributeError, match="author"):
        create_model("my_broken_net")
