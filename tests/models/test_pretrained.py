"""timm's own weights, through timm's own loader and a cache that holds them already."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from robustprune.errors import UsageError
from robustprune.models import create_model, pretrained

NAME = "test_resnet.r160_in1k"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights in the hub's cache, and no network."""
    import huggingface_hub.constants as hub

    torch.manual_seed(5)
    tensors = timm.create_model(NAME).state_dict()
    repository = tmp_path / f"models--timm--{NAME}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(tensors, repository / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    return tensors


def options(**changes: object) -> dict[str, object]:
    return {"name": NAME, "num_classes": 1000, "in_chans": 3, **changes}


def test_a_network_takes_them_all(cached: dict[str, torch.Tensor]) -> None:
    model = create_model(**options())
    pretrained.load_into(model, options())
    found = model.state_dict()
    assert all(torch.equal(found[f"backbone.{name}"], tensor) for name, tensor in cached.items())


def test_a_last_layer_for_other_classes_stays_as_it_was_drawn(
    cached: dict[str, torch.Tensor],
) -> None:
    model = create_model(**options(num_classes=10))
    drawn = model.state_dict()["backbone.fc.weight"].clone()
    pretrained.load_into(model, options(num_classes=10))
    found = model.state_dict()
    assert torch.equal(found["backbone.fc.weight"], drawn)
    others = {name: tensor for name, tensor in cached.items() if not name.startswith("fc.")}
    assert all(torch.equal(found[f"backbone.{name}"], tensor) for name, tensor in others.items())


def test_grey_images_take_the_sum_of_the_first_layer_s_colours(
    cached: dict[str, torch.Tensor],
) -> None:
    model = create_model(**options(in_chans=1))
    pretrained.load_into(model, options(in_chans=1))
    name = next(name for name in cached if cached[name].ndim == 4)
    found = model.state_dict()[f"backbone.{name}"]
    assert torch.allclose(found, cached[name].sum(1, keepdim=True), atol=1e-6)


def test_weights_that_cannot_be_downloaded_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"could not be had: .*Download them elsewhere"):
        pretrained.load_into(create_model(**options()), options())


@pytest.mark.parametrize("name", ["cnn_small", "resnet18_cifar"])
def test_our_backbones_have_none(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' has no pretrained weights"):
        pretrained.load_into(create_model(name), {"name": name})
    assert pretrained.num_classes(name) is None


def test_their_classes_are_known() -> None:
    assert pretrained.num_classes(NAME) == 1000
    assert pretrained.num_classes("vit_small_patch16_224.augreg_in21k") == 21843
