"""What a caller holds: nothing is judged or learned wrong in silence, nothing stale is claimed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

import robustprune as rp
from robustprune.artifacts.reading import read_model
from robustprune.pipeline import own

pytestmark = pytest.mark.slow

DIGITS: dict[str, Any] = {"name": "cnn_digits", "num_classes": 10, "in_chans": 1, "image_size": 8}
PIXELS = torch.rand(37, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(37) % 10


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Images without numbers; it may say that there are more than there are."""

    def __init__(self, said: int = 37) -> None:
        self.said = said

    def __len__(self) -> int:
        return self.said

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return zip(PIXELS.double(), LABELS.tolist(), strict=True)


def clean(data: Any, **options: Any) -> rp.Evaluated:
    return rp.evaluate(network(), data, "clean", quiet=True, **options)


def pruned(data: Any, model: nn.Module | None = None, **options: Any) -> rp.Pruned:
    usual: dict[str, Any] = {"epochs": 1, "max_steps": 2, "quiet": True}
    return rp.prune(model or network(), "hydra", data, "benign", 0.25, **(usual | options))


@pytest.mark.parametrize("said", [37, 64])
def test_a_streams_images_are_counted_and_not_its_batches(said: int):
    expected = clean((PIXELS, LABELS))
    found = clean(DataLoader(Stream(said), 8), batch_size=39)
    assert (found["clean_n"], found["clean"]) == (37, expected["clean"])


def test_an_image_that_a_sampler_draws_again_is_judged_once():
    sampler = WeightedRandomSampler(torch.ones(37), 400)
    found = clean(DataLoader(TensorDataset(PIXELS, LABELS), 8, sampler=sampler))
    assert found["clean_n"] == 37
    assert found["clean_interval"] == clean((PIXELS, LABELS))["clean_interval"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_loaders_images_may_be_floats_of_any_size(dtype: torch.dtype):
    assert pruned(DataLoader(TensorDataset(PIXELS.to(dtype), LABELS), 8)).kept


def test_images_to_validate_on_are_checked_before_any_training():
    given: Any = {"data": (PIXELS, LABELS), "batch_size": 8}
    with pytest.raises(rp.UsageError, match=r"^validation: labels must be 0 to 9.*5 to 14"):
        pruned(**given, validation=(PIXELS, LABELS + 5))
    with pytest.raises(rp.UsageError, match="does not take the images of validation, 1×16×16"):
        pruned(**given, validation=(torch.rand(4, 1, 16, 16), LABELS[:4]))
    with pytest.raises(rp.UsageError, match=r"^data: there are no images"):
        pruned([])


def test_statistics_come_in_any_sequence_and_are_of_pixels_in_0_1():
    expected = clean((PIXELS, LABELS), mean=[0.5], std=[0.25])
    for kind in (torch.tensor, np.array, tuple):
        assert clean((PIXELS, LABELS), mean=kind([0.5]), std=kind([0.25])) == expected
    with pytest.raises(rp.UsageError, match=r"^mean: .*divide mean and std by 255"):
        clean((PIXELS, LABELS), mean=[125.3], std=[63.0])
    with pytest.raises(rp.UsageError, match=r"^mean, std: expected a number"):
        clean((PIXELS, LABELS), mean="imagenet")


def test_what_a_file_says_itself_is_not_overridden_in_silence(tmp_path: Path):
    path = tmp_path / "net.safetensors"
    rp.save_model(rp.create_model(**DIGITS), path)
    with pytest.raises(rp.UsageError, match=r"^mean: .*says that itself"):
        rp.evaluate(path, (PIXELS, LABELS), "clean", mean=[0.5])
    with pytest.raises(rp.UsageError, match=r"^masks: .*says that itself"):
        rp.export(path, tmp_path / "net.packed.safetensors", masks={})


def test_tensors_stand_in_the_order_of_the_network_that_was_given():
    model = network()
    found = pruned((PIXELS, LABELS), model, batch_size=8)
    assert list(found.model.state_dict()) == list(model.state_dict())


def test_numbers_are_not_carried_over_to_a_network_that_was_changed_since(tmp_path: Path):
    model, path = rp.create_model(**DIGITS), tmp_path / "net.safetensors"
    judged: Any = {"evaluate": ["clean"], "validation": (PIXELS, LABELS), "batch_size": 8}
    found = pruned((PIXELS, LABELS), model, **judged)
    rp.save_model(found, path)
    about = read_model(path).metadata
    assert about["metrics"] == found.metrics
    assert (about["split"], "judged" in about) == ("validation", False)
    rp.export(found, tmp_path / "net.packed.safetensors")
    card = (tmp_path / "net.packed.safetensors.md").read_text()
    assert "On the first validation images" in card
    with torch.no_grad():
        next(found.model.parameters()).mul_(2)
    rp.save_model(found, path)
    assert not {"metrics", "split", "alarms"} & read_model(path).metadata.keys()


def test_alarms_stand_beside_the_numbers_that_they_refute(monkeypatch: pytest.MonkeyPatch):
    alarm = {"certificate": "ibp", "attack": "pgd", "images": [0]}
    monkeypatch.setattr("robustprune.pipeline.evaluate.alarms", lambda *_: [alarm])
    judged: Any = {"evaluate": ["clean"], "validation": (PIXELS, LABELS), "batch_size": 8}
    found = pruned((PIXELS, LABELS), rp.create_model(**DIGITS), **judged)
    assert own.network_of(found).metadata["alarms"] == [alarm]


class Rounded(nn.Module):
    """A network that sees pixels in steps, so that its loss has no gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model((images * 16).round() / 16)
        return logits


def test_attacks_that_have_no_gradient_to_follow_are_doubted(capsys: pytest.CaptureFixture[str]):
    model = network().eval()
    with torch.no_grad():
        labels = Rounded(model)(PIXELS).argmax(1)
    pgd: Any = {"evaluators": {"name": "pgd", "eps": 0.1, "steps": 2}, "quiet": True}
    rp.evaluate(model, (PIXELS, labels), **pgd)
    assert "gradient" not in capsys.readouterr().err
    rp.evaluate(Rounded(model), (PIXELS, labels), **pgd)
    assert "no gradient (0 in every pixel) on 20 of 20 images" in capsys.readouterr().err
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loaders_own_generator_is_drawn_from_by_training_alone():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    data = TensorDataset(PIXELS, LABELS)
    loader = DataLoader(data, 8, shuffle=True, generator=generator)
    clean(loader)
    assert torch.equal(generator.get_state(), before)
    pruned(loader)
    assert not torch.equal(generator.get_state(), before)


def test_an_attack_certifies_nothing():
    with pytest.raises(rp.UsageError, match=r"^bounds: 'pgd' proves nothing"):
        rp.certify(network(), (PIXELS, LABELS), eps=0.01, bounds="pgd")
    with pytest.raises(rp.UsageError, match=r"^radius, n: .*needs sigma"):
        rp.certify(network(), (PIXELS, LABELS), eps=0.01, n=100)
