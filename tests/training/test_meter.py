from types import SimpleNamespace

import pytest
import torch

from robustprune.objectives import Loss
from robustprune.training.meter import Meter


def loss(logits: list[list[float]], **parts: float) -> Loss:
    tensors = {name: torch.tensor(value) for name, value in parts.items()}
    return Loss(torch.tensor(0.0), torch.tensor(logits), tensors)


def filled() -> Meter:
    meter = Meter()
    meter.add(2.0, loss([[1, 0], [0, 1], [0, 1]], robust=5.0), torch.tensor([0, 1, 0]))
    meter.add(6.0, loss([[0, 1]], robust=1.0), torch.tensor([1]))
    return meter


def test_means_are_over_images_and_not_over_batches():
    meter = filled()
    assert meter.means(None) == {"loss": 3.0, "accuracy": 0.75, "robust": 4.0}
    assert (meter.loss, meter.accuracy) == (3.0, 0.75)


def test_a_new_meter_shows_zero():
    assert (Meter().loss, Meter().accuracy) == (0.0, 0.0)


def test_one_process_does_not_reduce():
    assert filled().means(SimpleNamespace(num_processes=1))["loss"] == 3.0


def test_several_processes_weigh_their_images():
    def with_another(sums: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        assert sums.dtype == torch.float64
        return sums + torch.tensor([8.0, 1.0, 0.0, 1.0], dtype=torch.float64)

    fake = SimpleNamespace(num_processes=2, device="cpu", reduce=with_another)
    assert filled().means(fake) == pytest.approx({"loss": 4.0, "accuracy": 0.8, "robust": 3.2})
