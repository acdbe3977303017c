"""What others load: plain state dicts under the field's names, and what stands in a card."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustprune.artifacts.card import card_path, write_card
from robustprune.artifacts.exports import SUFFIXES, export
from robustprune.artifacts.reading import load_model, read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sealed import read_sealed, write_sealed
from robustprune.errors import UsageError
from robustprune.models import backbones, create_model
from tests.artifacts.nets import ARCHITECTURES, DIGITS, document, pruned
from tests.artifacts.test_packed import architecture

VIT = {"name": "test_vit", "num_classes": 10, "in_chans": 3, "image_size": 160}


def saved(options: dict = DIGITS) -> SavedModel:
    return SavedModel(*pruned(options), document(options))


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", [n for n in backbones() if n != "wrn_28_10"])
def test_a_backbone_s_state_dict_is_loaded_strictly_by_the_plain_network(tmp_path, name, ending):
    before, path = saved(architecture(name)), tmp_path / f"net{ending}"
    written = export(before, path, format="dense")
    assert (written.bytes, written.notes) == (path.stat().st_size, ())
    tensors = torch.load(path, weights_only=True) if ending == ".pt" else load_file(path)
    plain = create_model(**architecture(name)).eval()
    plain.load_state_dict(tensors, strict=True)
    for key, tensor in before.model.state_dict().items():
        assert torch.equal(plain.state_dict()[key], tensor)


def test_the_names_are_those_of_networks_written_by_others(tmp_path):
    class Usual(nn.Module):
        """The ends of the usual ResNet-18 for CIFAR, written as its users have it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 3, bias=False)
            self.linear = nn.Linear(512, 10)

    path = tmp_path / "net.pt"
    export(saved(architecture("resnet18_cifar")), path, format="dense")
    tensors = torch.load(path, weights_only=True)
    ends = {k: v for k, v in tensors.items() if k.split(".")[0] in ("conv1", "linear")}
    Usual().load_state_dict(ends, strict=True)
    assert len(tensors) == 122


def test_a_safetensors_one_names_its_architecture_and_its_masks(tmp_path):
    before, path = saved(), tmp_path / "net.safetensors"
    export(before, path, format="dense")
    after = read_model(path)
    assert after.metadata == before.metadata
    assert after.masks.keys() == before.masks.keys()
    assert all(torch.equal(after.masks[name], mask) for name, mask in before.masks.items())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_model(path)(images), before.model(images))


def test_a_normalising_network_is_folded_where_that_is_exact(tmp_path):
    before, path = saved(VIT), tmp_path / "net.safetensors"
    (note,) = export(before, path, format="dense").notes
    assert "folded into layer 'patch_embed.proj'" in note
    after = read_model(path)
    assert after.metadata["model"] == {**VIT, "mean": [0.0] * 3, "std": [1.0] * 3}
    assert not any(name.startswith("backbone.") for name in after.model.state_dict())
    images = torch.rand(2, 3, 160, 160)
    assert torch.allclose(after.model(images), before.model(images), atol=1e-5)
    assert sum(int(m.sum()) for m in after.masks.values()) == sum(
        int(m.sum()) for m in before.masks.values()
    )


def test_a_folded_pt_says_what_it_holds_or_is_not_written(tmp_path):
    """Loaded by its name, a network of timm's normalises; one of ours does not."""
    with pytest.raises(UsageError, match=r"'test_vit' normalises unless told .*--normalisation in"):
        export(saved(VIT), tmp_path / "net.pt", format="dense")
    assert list(tmp_path.iterdir()) == []
    before, path = saved({**DIGITS, "mean": [0.0], "std": [0.25]}), tmp_path / "net.pt"
    written = export(before, path, format="dense")
    write_card(before, written)
    assert "mean=[0.0], std=[1.0]" in card_path(path).read_text()
    assert "mean [0.0]" in card_path(path).read_text()
    images = torch.rand(2, 1, 8, 8)
    for options in (written.model, DIGITS):
        again = load_model(path, **options)
        assert torch.allclose(again(images), before.model(images), atol=1e-5)


def test_a_size_that_the_network_does_not_take_is_told(tmp_path):
    options = {"name": "cnn_small", "in_chans": 3, "num_classes": 10, "mean": [0.0] * 3}
    before = saved({**options, "std": [0.5] * 3, "image_size": 28})
    before.metadata["model"] = {**before.metadata["model"], "image_size": None}
    with pytest.raises(UsageError, match=r"does not take images of 3×32×32.*--data NAME"):
        export(before, tmp_path / "net.safetensors", format="dense")


def test_equal_networks_are_equal_files(tmp_path):
    for folder in ("one", "two"):
        for name in ("net.pt", "net.safetensors"):
            (tmp_path / folder).mkdir(exist_ok=True)
            export(saved(), tmp_path / folder / name, format="dense")
    for name in ("net.pt", "net.safetensors"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two


def test_names_that_look_like_a_wrapper_s_are_the_network_s_own(tmp_path, monkeypatch):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(4, 2)

    monkeypatch.setattr("robustprune.artifacts.saved.create_model", lambda **_: Wrapped())
    before = SavedModel(Wrapped().eval(), {}, document())
    for name in ("net.safetensors", "net.pt"):
        path = export(before, tmp_path / name, format="dense").path
        after = read_model(path, None if path.suffix == ".safetensors" else DIGITS)
        assert torch.equal(after.model.module.weight, before.model.module.weight)


def test_a_normalising_network_is_refused_or_written_with_its_statistics(tmp_path):
    before, path = saved(ARCHITECTURES["normalised"]), tmp_path / "net.safetensors"
    with pytest.raises(UsageError, match="no padding"):
        export(before, path, format="dense")
    assert list(tmp_path.iterdir()) == []
    (note,) = export(before, path, format="dense", normalisation="inside").notes
    assert "mean [0.5] and deviation [0.25]" in note
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_model(path)(images), before.model(images))
    export(before, tmp_path / "net.pt", format="dense", normalisation="inside")
    tensors = torch.load(tmp_path / "net.pt", weights_only=True)
    assert tensors["normalize.mean"].flatten().tolist() == [0.5]
    assert "backbone.0.weight" in tensors
    again = load_model(tmp_path / "net.pt", **ARCHITECTURES["normalised"])
    assert torch.equal(again(images), before.model(images))


@pytest.mark.parametrize(
    ("format", "name"), [("dense", "a.onnx"), ("packed", "a.pt"), ("onnx", "a")]
)
def test_a_name_that_does_not_end_right_is_refused(tmp_path, format, name):
    with pytest.raises(UsageError, match=f"a file of format '{format}' ends in"):
        export(saved(), tmp_path / name, format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "wrong"), [("masked", ["nothing"]), ("masked", 3), ("model", {"name": "cnn_digit"})]
)
def test_an_exported_state_dict_that_was_changed_is_refused(tmp_path, key, wrong):
    path = tmp_path / "net.safetensors"
    export(saved(), path, format="dense")
    metadata, tensors = read_sealed(path)
    write_sealed(path, tensors, {**metadata, key: wrong})
    with pytest.raises(UsageError):
        read_model(path)


def test_the_card_says_what_was_measured_and_what_was_not(tmp_path):
    before = saved()
    before.metadata.update(
        recipe="my-recipe",
        network="hydra-0.1",
        seed=3,
        data={"name": "digits", "root": None},
        objective={"name": "trades", "eps": 8 / 255, "beta": 6.0},
        evaluate=[
            {"name": "clean"},
            {"name": "pgd", "eps": 0.1, "steps": 50, "label": None},
            {"name": "autoattack", "eps": 0.1, "steps": 10, "label": None},
            {"name": "torchattacks", "attack": "BIM", "eps": 0.1, "label": None},
        ],
        metrics={"pgd": 0.4375, "pgd_n": 1000, "pgd_interval": [0.407, 0.468]}
        | {"autoattack-10": 0.4, "autoattack-10_n": 100, "autoattack-10_interval": [0.3, 0.5]}
        | {"torchattacks_bim": 0.5, "torchattacks_bim_n": 10},
    )
    written = export(before, tmp_path / "net.packed.safetensors", format="packed")
    write_card(before, written)
    text = card_path(written.path).read_text()
    assert card_path(written.path).name == "net.packed.safetensors.md"
    for line in (
        "# my-recipe: hydra-0.1",
        "- Objective: trades, eps 8/255, beta 6",
        "- Data: digits",
        "| pgd | 0.4375 | 0.407 to 0.468 | 1000 | pgd, eps 0.1, steps 50 |",
        "| autoattack-10 | 0.4 | 0.300 to 0.500 | 100 | autoattack, eps 0.1, steps 10 |",
        "| torchattacks_bim | 0.5 |  | 10 | torchattacks, attack BIM, eps 0.1 |",
        "- Attacks bound robust accuracy from above: a stronger one may find more.",
        "- No bound on the network itself was computed: nothing is verified.",
        'model = robustprune.load_model("net.packed.safetensors")',
    ):
        assert line in text.splitlines()
    assert "2,947 of 29,472 prunable ones" in text


def test_the_card_warns_of_what_the_file_knows(tmp_path):
    before = saved()
    before.metadata.update(
        objective={"name": "stability", "sigma": 0.8, "eps": 110 / 255},
        evaluate=[{"name": "smoothing"}],
        metrics={"smoothing": 0.5, "smoothing_n": 10},
        max_steps=3,
        alarms=[{"index": 4}],
        weights={"file": "a.pt", "sha256": "ab"},
    )
    written = export(before, tmp_path / "net.packed.safetensors", format="packed", values="fp16")
    write_card(before, written)
    text = card_path(written.path).read_text()
    for line in (
        "- **Training was cut at 3 steps a stage.**",
        "**An attack broke images that a certificate verified: claim nothing.**",
        "- Smoothing certifies what it makes of the network, not the network itself.",
        "- Started from: file a.pt, sha256 ab",
        "- Objective: stability, sigma 0.8, eps 110/255",
        "| smoothing | 0.5 |  | 10 | smoothing |",
    ):
        assert line in text.splitlines()
    assert "rounded to half precision: what was measured" in text
    assert "Attacks bound" not in text


def test_the_card_counts_layers_without_a_mask_as_whole(tmp_path):
    before = saved()
    first = next(iter(before.masks))
    del before.masks[first]
    write_card(before, export(before, tmp_path / "net.pt", format="dense"))
    kept = sum(int(m.sum()) for m in before.masks.values())
    kept += before.model.get_parameter(first).numel()
    assert f"{kept:,} of 29,472 prunable ones" in card_path(tmp_path / "net.pt").read_text()


def test_the_card_of_a_rounded_network_says_so_whatever_it_is_exported_to(tmp_path):
    export(saved(), tmp_path / "half.safetensors", format="packed", values="fp16")
    half = read_model(tmp_path / "half.safetensors")
    written = export(half, tmp_path / "again.safetensors", format="packed")
    write_card(half, written)
    assert "were rounded to half precision after" in card_path(written.path).read_text()


def test_the_card_of_an_unknown_network_claims_nothing(tmp_path):
    before = SavedModel(pruned()[0], {}, {"model": DIGITS})
    written = export(before, tmp_path / "net.pt", format="dense")
    write_card(before, written)
    text = card_path(written.path).read_text()
    assert "Nothing was measured of this network" in text
    assert "Not known: the file does not say how it was trained." in text
    assert 'torch.load("net.pt", weights_only=True)' in text


def test_every_format_has_an_ending():
    assert all(suffixes[0].startswith(".") for suffixes in SUFFIXES.values())
